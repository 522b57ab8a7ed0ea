"""The signature of a job file: the bytes that it covers, its form in the record, and what is against it. Pure.

It covers the spec, the job's id, the key prefix of its queue, the times of issue and expiry, the checkpoint that
the job starts from, and the ended jobs that it goes on from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from pi0q.jobs import job_id
from pi0q.jobs.record_codecs import Codec, json_of, mapping, matching, whole

if TYPE_CHECKING:
    from pi0q.jobs.record import Record
    from pi0q.jobs.signing.sweep_warrant import SweepWarrant
    from pi0q.jobs.start_point import StartPoint

#: First line of the signed bytes: a signature for one purpose is none for another.
_JOB, _CLAIM = b"pi0q job file v1\n", b"pi0q claim v1\n"
DAY_MS = 24 * 3600 * 1000
#: How long after its signing a job may be claimed for the first time, and how long after its last sign of life a job
#: that a trusted box had claimed may be claimed by another box.
VALID_MS = 30 * DAY_MS
#: Jobs of one lineage, and characters of a prefix.
MAX_LINEAGE, MAX_PREFIX = 100, 200


def canonical(value: object) -> bytes:
    """Return the one text of a JSON value: sorted keys, no blanks, ASCII. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


@dataclass(frozen=True, kw_only=True)
class JobSignature:
    """A submitter's signature of one job, as the record keeps it."""

    #: Id of the signer's key.
    key: str
    #: The job that was signed.
    job: str
    #: Key prefix of the queue that it was signed for.
    prefix: str
    #: Milliseconds since 1970 on the signer's clock.
    issued_ms: int
    expires_ms: int
    #: The ended jobs that this one goes on from, the first one first.
    lineage: tuple[str, ...] = ()
    #: The job from whose last checkpoint it starts, where that had not ended; "": what it starts from was fixed.
    start_job: str = ""
    #: Base64 of the signature itself; "" before it is made.
    value: str = field(default="", repr=False)

    def covered(self, spec: Mapping[str, Any], start: StartPoint | None) -> bytes:
        """Return the bytes that are signed. Raises ValueError for a spec that is no JSON."""
        covered = {
            "key": self.key,
            "job": self.job,
            "prefix": self.prefix,
            "issued_ms": self.issued_ms,
            "expires_ms": self.expires_ms,
            "lineage": list(self.lineage),
            "start_job": self.start_job,
            "spec": spec,
            # The server fixes it later where only the job that makes it could be named.
            "starts_from": start.to_json() if start and not self.start_job else None,
        }
        return _JOB + canonical(covered)

    def to_json(self) -> dict[str, Any]:
        """Return what the record keeps."""
        return {**vars(self), "lineage": list(self.lineage)}


@dataclass(frozen=True, kw_only=True)
class ClaimReceipt:
    """A box's signed word that it has run a job: another box may take the job after its signature has expired."""

    #: Id of the box's key.
    key: str
    job: str
    prefix: str
    #: Milliseconds since 1970 on the box's clock.
    at_ms: int
    value: str = field(default="", repr=False)

    def covered(self) -> bytes:
        """Return the bytes that are signed."""
        return _CLAIM + canonical({"key": self.key, "job": self.job, "prefix": self.prefix, "at_ms": self.at_ms})

    def to_json(self) -> dict[str, Any]:
        """Return what the record keeps."""
        return dict(vars(self))


class Distrust(str, Enum):
    """Why a box does not trust a job file."""

    UNSIGNED = "unsigned"
    UNKNOWN_SIGNER = "unknown_signer"
    #: Signed for another job, or for another queue.
    OTHER_JOB = "other_job"
    OTHER_QUEUE = "other_queue"
    CHANGED = "changed"
    #: A trial that its sweep's signature does not cover.
    OUTSIDE_SWEEP = "outside_sweep"
    REPLAYED = "replayed"
    EXPIRED = "expired"
    #: The box can't read the file of its trusted keys, or lacks the package that verifies.
    NO_KEYS = "no_keys"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """What a box goes by: each function returns whether a trusted key of that kind made this signature."""

    prefix: str
    #: Whether a submitter's key of this id is trusted.
    knows: Callable[[str], bool]
    #: key id, bytes, base64 of the signature -> whether it verifies; by submitters' keys, and by boxes' keys.
    by_submitter: Callable[[str, bytes, str], bool]
    by_box: Callable[[str, bytes, str], bool]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What this box itself remembers of a job."""

    #: Whether it has run the job before.
    claimed: bool = False
    #: When the job ended, milliseconds since 1970; None where the box knows of no end.
    ended_ms: int | None = None


def forgery(record: Record, verifier: Verifier) -> Distrust | None:
    """Return why the signature of a record is not that of a trusted submitter for this job here; None if it is.

    It depends on the record and the trusted keys alone, not on time.
    """
    signature = record.any_signature
    if signature is None:
        return Distrust.UNSIGNED
    if not verifier.knows(signature.key):
        return Distrust.UNKNOWN_SIGNER
    warrant = record.warrant if record.signature is None else None
    if warrant is None and signature.job != record.id:
        return Distrust.OTHER_JOB
    if signature.prefix != verifier.prefix:
        return Distrust.OTHER_QUEUE
    try:
        covered = warrant.covered() if warrant else signature.covered(record.spec, record.starts_from)
    except (ValueError, TypeError, RecursionError):
        return Distrust.CHANGED
    if not verifier.by_submitter(signature.key, covered, signature.value):
        return Distrust.CHANGED
    if warrant is not None and _is_outside(record, warrant):
        return Distrust.OUTSIDE_SWEEP
    if signature.start_job and record.starts_from and record.starts_from.job != signature.start_job:
        return Distrust.CHANGED
    if record.continues and record.continues not in signature.lineage:
        return Distrust.CHANGED
    return None


def _is_outside(record: Record, warrant: SweepWarrant) -> bool:
    from pi0q.jobs.signing.sweep_warrant import why_no_trial  # it needs this module

    return why_no_trial(record, warrant) != ""


def staleness(record: Record, verifier: Verifier, seen: Seen, *, now_ms: int) -> Distrust | None:
    """Return why a genuine signature counts no more: the job has ended here, or its first claim comes too late."""
    signature = record.any_signature
    if signature is None:
        return Distrust.UNSIGNED
    if seen.ended_ms is not None and signature.issued_ms <= seen.ended_ms:
        return Distrust.REPLAYED
    if now_ms <= signature.expires_ms or seen.claimed or _claimed_elsewhere(record, verifier, now_ms):
        return None
    return Distrust.EXPIRED


def _claimed_elsewhere(record: Record, verifier: Verifier, now_ms: int) -> bool:
    receipt = record.receipt
    if receipt is None or (receipt.job, receipt.prefix) != (record.id, verifier.prefix):
        return False
    return now_ms <= receipt.at_ms + VALID_MS and verifier.by_box(receipt.key, receipt.covered(), receipt.value)


def lineage_of(before: Record, *, genuine: bool) -> tuple[str, ...]:
    """Return the lineage of a job that goes on from this ended one; `genuine`: the ended job's signature verifies."""
    earlier = before.signature.lineage if before.signature and genuine else ()
    return (*earlier, before.id)[-MAX_LINEAGE:]


# -- in the record ------------------------------------------------------------------------------------

#: Id of a key (jobs/signing/keys.py), and base64 of the 64 bytes of a signature, as they come from outside.
key_id, signature_text = matching("[0-9a-f]{16}"), matching(r"[A-Za-z0-9+/]{86}==")
_JOB_ID = matching(job_id.PATTERN)


def _prefix(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_PREFIX:
        raise ValueError
    return value


def _read_signature(text: str) -> JobSignature:
    found = mapping(json_of(text))
    lineage = found["lineage"]
    if set(found) != set(JobSignature.__dataclass_fields__) or not isinstance(lineage, list):
        raise ValueError
    if len(lineage) > MAX_LINEAGE:
        raise ValueError
    return JobSignature(
        key=key_id(found["key"]),
        job=_JOB_ID(found["job"]),
        prefix=_prefix(found["prefix"]),
        issued_ms=whole(found["issued_ms"]),
        expires_ms=whole(found["expires_ms"]),
        lineage=tuple(map(_JOB_ID, lineage)),
        start_job=_JOB_ID(found["start_job"]) if found["start_job"] != "" else "",
        value=signature_text(found["value"]),
    )


def _read_receipt(text: str) -> ClaimReceipt:
    found = mapping(json_of(text))
    if set(found) != set(ClaimReceipt.__dataclass_fields__):
        raise ValueError
    return ClaimReceipt(
        key=key_id(found["key"]),
        job=_JOB_ID(found["job"]),
        prefix=_prefix(found["prefix"]),
        at_ms=whole(found["at_ms"]),
        value=signature_text(found["value"]),
    )


SIGNATURE = Codec(_read_signature, "a signature of a job file as JSON", lambda value: value and value.to_json())
RECEIPT = Codec(_read_receipt, "a box's signed word as JSON", lambda value: value and value.to_json())
