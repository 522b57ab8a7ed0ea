"""Sign a new job with the user's key, where the user has one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pi0q.queue.settings import config_path

if TYPE_CHECKING:
    from pi0q.jobs.record import Record
    from pi0q.jobs.signing.job_signature import JobSignature
    from pi0q.jobs.start_point import StartPoint
    from pi0q.queue.keys import PrivateKey


@dataclass(frozen=True, kw_only=True)
class Signer:
    """The user's key, and what else than the job its signature tells."""

    key: PrivateKey
    #: Key prefix of the queue.
    prefix: str
    #: The ended jobs that the job goes on from.
    lineage: tuple[str, ...] = ()
    #: The job from whose last checkpoint the job starts once that has ended; "" if none.
    start_job: str = ""

    def signature(self, job: str, spec: Mapping[str, Any], start: StartPoint | None) -> JobSignature:
        """Return the signature of one job, made now."""
        from pi0q.jobs.signing.job_signature import VALID_MS, JobSignature

        now_ms = int(time.time() * 1000)
        empty = JobSignature(
            key=self.key.id,
            job=job,
            prefix=self.prefix,
            issued_ms=now_ms,
            expires_ms=now_ms + VALID_MS,
            lineage=self.lineage,
            start_job=self.start_job,
        )
        return replace(empty, value=self.key.sign(empty.covered(spec, start)))


def signed(fields: Mapping[str, Any], prefix: str, *, before: Record | None = None) -> Mapping[str, Any]:
    """Return the record of a new job with its signature; the same record where the user has no key.

    `before` is the ended job that it goes on from. Raises BadKeyFile, and UsageError where `cryptography` is missing.
    """
    # The path as keys.signing_key_path has it: a submit without a key must not load that module.
    if not os.path.exists(config_path(os.environ).with_name("signing_key.pem")):  # noqa: PTH110
        return fields
    from pi0q.jobs.start_point import StartPoint

    key, start = user_key(), fields.get("starts_from")
    signer = Signer(
        key=key,
        prefix=prefix,
        lineage=lineage_from(before, prefix, key) if before else (),
        start_job=str(fields.get("start_job") or ""),
    )
    return {
        **fields,
        "signature": signer.signature(str(fields["id"]), fields["spec"], StartPoint(**start) if start else None),
    }


def user_key() -> PrivateKey:
    """Return the user's key. Raises BadKeyFile, UsageError, and FileNotFoundError where there is none."""
    from pi0q.jobs.signing.keys import Role
    from pi0q.queue import keys
    from pi0q.queue.current_user import user

    try:
        return keys.load_private(keys.signing_key_path(), Role.SUBMITTER, user())
    except ModuleNotFoundError as error:
        raise keys.missing_package(error) from None


def is_genuine(record: Record, prefix: str) -> bool:
    """Return whether a job file in the queue is as its signer left it, by the user's key and trusted ones.

    True where the user has no key: then nothing is signed on the strength of it.
    """
    if not os.path.exists(config_path(os.environ).with_name("signing_key.pem")):  # noqa: PTH110
        return True
    return _genuine(record, prefix, user_key())


def _genuine(record: Record, prefix: str, key: PrivateKey) -> bool:
    from pi0q.jobs.signing.job_signature import forgery
    from pi0q.jobs.signing.keys import TrustedKeys
    from pi0q.queue import keys

    trusted = keys.read_trusted(keys.trusted_keys_path()) or TrustedKeys()
    return forgery(record, keys.verifier(TrustedKeys(keys=(*trusted.keys, key.public)), prefix)) is None


def lineage_from(before: Record, prefix: str, key: PrivateKey) -> tuple[str, ...]:
    """Return the jobs whose checkpoints a job that goes on from this one may take.

    Those before it are taken over from its signature where that was made by the user or by someone whom the user
    trusts.
    """
    from pi0q.jobs.signing.job_signature import lineage_of

    return lineage_of(before, genuine=_genuine(before, prefix, key))
