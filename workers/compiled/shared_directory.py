"""Archives of compiled kernels in a directory that other boxes see: PLACE/compile/KEY/JOB/, one a job."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs import compiled_kernels
from pi0q.jobs.compiled_kernels import FOLDER, MANIFEST, BadArchive, Manifest
from pi0q.jobs.job_id import is_job_id
from pi0q.workers.checkpoints.replica_directory import TargetUnusable, unusable
from pi0q.workers.compiled import archive
from pi0q.workers.compiled.archive import Count
from pi0q.workers.host.own_files import Untrusted, own_directory

#: Archives of one key that are kept, the newest ones.
KEPT = 4
#: Keys that are kept: those with the newest archives. A new driver, torch or LeRobot makes a new key; a fleet uses few.
KEPT_KEYS = 16
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Which archives a box may use: those whose manifest the job's record names, or any where the owner says so."""

    #: SHA-256 of manifests.
    named: frozenset[str] = frozenset()
    #: The directory is one that the box's owner listed, and the owner trusts everyone who can write there.
    all_here: bool = False

    def require(self, text: str) -> None:
        """Raise BadArchive for a manifest that nobody vouches for."""
        if not self.all_here and compiled_kernels.sha256(text) not in self.named:
            raise BadArchive("the job's record does not name its manifest")


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """An archive that is now this box's cache."""

    manifest: str
    job: str
    files: int
    bytes: int


@dataclass
class SharedKernels:
    """The archives for one key in one directory."""

    place: Path
    key: str
    #: Directories that the box's owner allows for copies.
    roots: tuple[Path, ...] = ()
    #: Why archives were passed over.
    refused: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def _held(self, *, make: bool = False) -> Iterator[Path]:
        """Hold the key's folder open. Raises TargetUnusable, Untrusted, FileNotFoundError."""
        if why := unusable(self.place, self.roots):
            raise TargetUnusable(why)
        with (
            own_directory(self.place.resolve(), FOLDER, make=make) as outer,
            own_directory(outer, self.key, make=make) as folder,
        ):
            yield folder

    def put(self, job: str, caches: Path, compiled_for: Mapping[str, Any], count: Count) -> str:
        """Pack this job's kernels, in place of an older archive of it; return the manifest's text.

        Raises BadArchive, TargetUnusable, OSError.
        """
        with self._held(make=True) as folder:
            part = folder / f"{job}.part"
            shutil.rmtree(part, ignore_errors=True)
            try:
                with own_directory(folder, part.name, make=True) as fresh:
                    text = archive.pack(caches, fresh, compiled_for, count)
                shutil.rmtree(folder / job, ignore_errors=True)
                part.rename(folder / job)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            for old in self._jobs(folder)[KEPT:]:
                shutil.rmtree(folder / old, ignore_errors=True)
        self._prune_keys()
        return text

    def _prune_keys(self) -> None:
        """Remove the keys with the oldest archives; who unpacks one meanwhile compiles by itself."""
        with contextlib.suppress(OSError, Untrusted), own_directory(self.place.resolve(), FOLDER) as outer:
            keys = [entry for entry in outer.iterdir() if _KEY.fullmatch(entry.name) and entry.name != self.key]
            for old in sorted(keys, key=_newest, reverse=True)[KEPT_KEYS - 1 :]:
                shutil.rmtree(old, ignore_errors=True)

    def holds(self, trust: Trust) -> bool:
        """Return whether an archive lies here that this box would use; its bytes are not read."""
        with contextlib.suppress(FileNotFoundError), self._held() as folder:
            return any(self._manifest(folder, job, trust) for job in self._jobs(folder))
        return False

    def fetch(self, into: Path, trust: Trust, count: Count) -> Unpacked | None:
        """Unpack the newest archive that may be used and verifies; None where there is none. Raises TargetUnusable."""
        with contextlib.suppress(FileNotFoundError), self._held() as folder:
            for job in self._jobs(folder):
                if (text := self._manifest(folder, job, trust)) is None:
                    continue
                try:
                    with own_directory(folder, job) as held:
                        manifest = archive.unpack(held, into, text, key=self.key, count=count)
                except FileNotFoundError:
                    self.refused.append(f"that of job {job}: it is not complete")
                    continue
                except (BadArchive, Untrusted) as error:
                    self.refused.append(f"that of job {job}: {error}")
                    continue
                digest = compiled_kernels.sha256(text)
                return Unpacked(manifest=digest, job=job, files=len(manifest.files), bytes=manifest.bytes)
        return None

    def _manifest(self, folder: Path, job: str, trust: Trust) -> str | None:
        """Return the text of a manifest that is vouched for and readable."""
        try:
            with own_directory(folder, job) as held:
                text = archive.read_manifest(held)
            trust.require(text)
            Manifest.from_text(text, key=self.key)
        except (BadArchive, Untrusted) as error:
            self.refused.append(f"that of job {job}: {error}")
        except FileNotFoundError:
            pass
        else:
            return text
        return None

    def _jobs(self, folder: Path) -> list[str]:
        """Return the jobs that have an archive here, the newest first."""
        found = []
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                if is_job_id(entry.name):
                    found.append(((entry / MANIFEST).lstat().st_mtime, entry.name))
        return [job for _, job in sorted(found, reverse=True)]


def _newest(key: Path) -> float:
    """Return when the newest archive of a key was completed; for one that is being written, when that began."""
    times = [0.0]
    with contextlib.suppress(OSError):
        times.append(key.lstat().st_mtime)
    for manifest in key.glob(f"*/{MANIFEST}"):
        with contextlib.suppress(OSError):
            times.append(manifest.lstat().st_mtime)
    return max(times)
