"""The signature of a checkpoint's manifest by the box that sealed it. Pure.

It covers the job, the step, the claim number, and size and SHA-256 of each file. It lies in the manifest itself, so
that every copy of the checkpoint has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pi0q.jobs import job_id
from pi0q.jobs.record_codecs import matching
from pi0q.jobs.signing.job_signature import canonical, key_id, signature_text

_CHECKPOINT = b"pi0q checkpoint v1\n"
_JOB_ID = matching(job_id.PATTERN)
#: Key id, bytes, base64 of the signature -> whether a trusted box made it.
VerifyByBox = Callable[[str, bytes, str], bool]


@dataclass(frozen=True, kw_only=True)
class ManifestSignature:
    """A box's signature of one checkpoint."""

    #: Id of the box's key.
    key: str
    #: The job whose checkpoint it is.
    job: str
    #: Base64 of the signature itself; "" before it is made.
    value: str = field(default="", repr=False)

    def covered(self, manifest: Mapping[str, Any]) -> bytes:
        """Return the bytes that are signed, of a manifest as `Manifest.to_json` has it."""
        told = {name: manifest[name] for name in ("step", "epoch", "files")}
        return _CHECKPOINT + canonical({"key": self.key, "job": self.job, **told})

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest holds."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ManifestSignature:
        """Raises KeyError, TypeError or ValueError on anything that is no signature."""
        return cls(key=key_id(raw["key"]), job=_JOB_ID(raw["job"]), value=signature_text(raw["value"]))


def fault(
    signature: ManifestSignature | None,
    manifest: Mapping[str, Any],
    verify: VerifyByBox,
    *,
    jobs: Collection[str] | None,
) -> str:
    """Return why a checkpoint from elsewhere is not one that a trusted box made of one of these jobs; "" if it is.

    `jobs` None: whose it is was settled in another way.
    """
    if signature is None:
        return "its manifest is not signed"
    if not verify(signature.key, signature.covered(manifest), signature.value):
        return f"its manifest is not signed by a box that this one trusts (key {signature.key})"
    if jobs is not None and signature.job not in jobs:
        return f"it is a checkpoint of job {signature.job}"
    return ""
