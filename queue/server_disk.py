"""The disk under the server of a `pi0q up` on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pi0q.queue.settings import Settings

#: Free space and files below which the server can't write: it wants some for its next append-only file. MiB, files.
FULL_MIB, FULL_FILES = 16, 16


@dataclass(frozen=True, kw_only=True)
class ServerDisk:
    """Where the server keeps its data, and what that disk can still take."""

    path: Path
    free_mib: int
    #: None on a disk that has no limit of files.
    free_files: int | None

    @property
    def full(self) -> bool:
        return self.free_mib < FULL_MIB or (self.free_files is not None and self.free_files < FULL_FILES)

    def __str__(self) -> str:
        files = f" and {self.free_files} more files" if self.free_files is not None and self.free_files < 1000 else ""
        return f"{self.free_mib} MiB{files} are free at {self.path}"


def of(settings: Settings) -> ServerDisk | None:
    """Return the disk of the queue's server; None where that is not the server of a `pi0q up` on this machine."""
    try:
        known = json.loads((settings.home / "up.json").read_text(encoding="utf-8"))["redis_url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Each user of the server has an address with an own name and password.
    same = str(known).rpartition("@")[2] == settings.redis_url.rpartition("@")[2]
    return measure(settings.home / "server") if same else None


def measure(path: Path) -> ServerDisk | None:
    """Return what the disk of a directory can still take; None where there is no such directory."""
    try:
        stats = os.statvfs(path)
    except OSError:
        return None
    free_files = stats.f_favail if stats.f_files else None
    return ServerDisk(path=path, free_mib=stats.f_bavail * stats.f_frsize >> 20, free_files=free_files)
