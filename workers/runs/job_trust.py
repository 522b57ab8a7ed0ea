"""Whether this box trusts a job's file: demanded as soon as the box has a file of trusted keys (queue/keys.py)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from pi0q.jobs.checkpoint import Manifest
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.jobs.signing.job_signature import ClaimReceipt, Distrust, forgery, staleness
from pi0q.jobs.signing.keys import TrustedKeys
from pi0q.jobs.signing.manifest_signature import ManifestSignature
from pi0q.queue import keys
from pi0q.queue.refusals import NotTrusted
from pi0q.workers.runs.job_memory import JobMemory

#: Verdicts kept in memory.
MAX_REMEMBERED = 1000
#: Version of a file: inode, size, time of the last change; None where there is none.
Version = tuple[int, int, int] | None


class NotTrustedJob(Pi0qError):
    """A job whose file this box does not trust; nothing of it was run."""


class JobTrust:
    """The trust of one box in job files; it follows changes of the file of trusted keys."""

    def __init__(self, home: Path, prefix: str, *, trusted_keys: Path | None = None) -> None:
        self.path = trusted_keys or keys.trusted_keys_path()
        self.home, self.prefix, self.memory = home, prefix, JobMemory(home)
        self._version: Version = None
        self._trusted: TrustedKeys | None = None
        self._fault = ""
        self._own: keys.PrivateKey | None = None
        self._verdicts: dict[str, tuple[tuple[object, ...], Distrust | None]] = {}

    @property
    def demanded(self) -> bool:
        """Return whether this box runs signed jobs alone."""
        try:
            self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def trusted(self) -> TrustedKeys | None:
        """Return the keys that this box trusts; None where it demands no signatures. Raises BadKeyFile."""
        self._read()
        if self._fault:
            raise keys.BadKeyFile(self._fault)
        return self._trusted

    def refusal(self, job: Record) -> NotTrusted | None:
        """Return why this box does not run the job by its file; None if it may."""
        if not self.demanded:
            return None
        try:
            trusted = self.trusted()
            why = self._distrust(job, trusted) if trusted is not None else None
        except (Pi0qError, OSError) as error:
            return NotTrusted(job=job.id, why=Distrust.NO_KEYS.value, detail=str(error).partition("\n")[0])
        except ModuleNotFoundError as error:
            return NotTrusted(job=job.id, why=Distrust.NO_KEYS.value, detail=f"{error.name} is not installed here")
        return None if why is None else _refused(job, why)

    def require(self, job: Record) -> None:
        """Raise NotTrustedJob where this box does not trust the job's file."""
        if (refused := self.refusal(job)) is not None:
            raise NotTrustedJob(str(refused))

    def receipt(self, job: str, box: str) -> ClaimReceipt | None:
        """Return this box's signed word that it runs the job; None where it demands no signatures.

        Raises BadKeyFile, OSError, ModuleNotFoundError.
        """
        if not self.demanded:
            return None
        key = self.own_key(box)
        empty = ClaimReceipt(key=key.id, job=job, prefix=self.prefix, at_ms=int(time.time() * 1000))
        return replace(empty, value=key.sign(empty.covered()))

    def sign_manifest(self, manifest: Manifest, *, job: str, box: str) -> Manifest:
        """Return a checkpoint's manifest with this box's signature; the same one where it demands no signatures.

        Raises BadKeyFile, ModuleNotFoundError, OSError.
        """
        if not self.demanded:
            return manifest
        key = self.own_key(box)
        empty = ManifestSignature(key=key.id, job=job)
        return replace(manifest, signature=replace(empty, value=key.sign(empty.covered(manifest.to_json()))))

    def own_key(self, box: str) -> keys.PrivateKey:
        """Return this box's key; it is made at the first call. Raises BadKeyFile, OSError, ModuleNotFoundError."""
        if self._own is None:
            self._own = keys.box_key(self.home, box)
        return self._own

    def _distrust(self, job: Record, trusted: TrustedKeys) -> Distrust | None:
        verifier = keys.verifier(trusted, self.prefix)
        trial = (job.warrant, job.sweep, job.sweep_number) if job.warrant else ()
        seen_as = (job.spec, job.signature, job.starts_from, job.continues, trial, self._version)
        known = self._verdicts.get(job.id)
        if known is None or known[0] != seen_as:
            if len(self._verdicts) > MAX_REMEMBERED:
                self._verdicts.clear()
            known = (seen_as, forgery(job, verifier))
            self._verdicts[job.id] = known
        now_ms = int(time.time() * 1000)
        return known[1] or staleness(job, verifier, self.memory.seen(job.id), now_ms=now_ms)

    def _read(self) -> None:
        version = _version(self.path)
        if version == self._version and version is not None:
            return
        self._trusted, self._fault = None, ""
        try:
            self._trusted = keys.read_trusted(self.path)
        except keys.BadKeyFile as error:
            self._fault = str(error)
        if self._trusted is None and not self._fault and self.demanded:
            self._fault = f"{self.path} leads to no file; no key is trusted."
        self._version = version


def _version(path: Path) -> Version:
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def _refused(job: Record, why: Distrust) -> NotTrusted:
    signature = job.any_signature
    return NotTrusted(job=job.id, why=why.value, key=signature.key if signature else "")
