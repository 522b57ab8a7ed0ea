"""Boxes whose checkpoints this box takes over: what its runner asks for, and how a copy is judged by that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pi0q.jobs.checkpoint import Manifest
from pi0q.jobs.signing import manifest_signature
from pi0q.jobs.signing.keys import PublicKey, Role, TrustedKeys, parse_file
from pi0q.queue import keys
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints.transfer import Unsigned
from pi0q.workers.runs.job_trust import JobTrust


def request(
    trusted: TrustedKeys, own: PublicKey, *, jobs: Collection[str] | None, unsigned_allowed: bool
) -> dict[str, Any]:
    """Return the part of a request to replicate_main: checkpoints of these jobs, signed by a trusted box or this one.

    `jobs` None: of any job, whose manifest is known otherwise.
    """
    boxes = [key for key in trusted.keys if key.role is Role.BOX]
    return {
        "keys": [key.line() for key in (*boxes, own)],
        "jobs": None if jobs is None else sorted(jobs),
        "unsigned": unsigned_allowed,
    }


def wanted(trust: JobTrust, settings: Settings, *, box: str, jobs: Collection[str] | None) -> dict[str, Any] | None:
    """Return `request` by what this box trusts; None where it demands no signatures.

    Raises BadKeyFile, OSError, ModuleNotFoundError.
    """
    trusted = trust.trusted() if trust.demanded else None
    if trusted is None:
        return None
    allowed = settings.unsigned_checkpoints
    return request(trusted, trust.own_key(box).public, jobs=jobs, unsigned_allowed=allowed)


def judge_of(signers: Mapping[str, Any] | None) -> Callable[[Manifest], None]:
    """Return what raises Unsigned for a manifest that none of these boxes signed; None: no one need."""
    if signers is None:
        return lambda _: None
    trusted, _ = parse_file(signers["keys"])

    def by_box(key_id: str, data: bytes, value: str) -> bool:
        return keys.verifies(trusted, Role.BOX, key_id, data, value)

    def judge(manifest: Manifest) -> None:
        if signers["unsigned"] and manifest.signature is None:
            return
        if why := manifest_signature.fault(manifest.signature, manifest.to_json(), by_box, jobs=signers["jobs"]):
            raise Unsigned(why)

    return judge
