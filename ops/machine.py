"""The machine that pi0q runs on, and its kind. Every path is below a root, so that tests can imitate a machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pi0q.jobs.errors import Pi0qError
from pi0q.workers.host.files import MIB

#: AutoDL's data disk: kept when the container is off, never part of a saved image.
AUTODL_DATA = "/root/autodl-tmp"
#: AutoDL's region-wide file storage, a slow NFS with a cap on files.
AUTODL_FILES = "/root/autodl-fs"
#: AutoDL runs it at each start of the container; it does not exist until someone creates it.
AUTODL_HOOK = "/etc/autodl.sh"
#: Seconds that systemd has to answer.
SYSTEMD_SECONDS = 10.0


class DiskSpace(NamedTuple):
    """Free space of a file system."""

    free_mib: int
    total_mib: int
    #: Files that can still be created; None where there is no such limit.
    free_files: int | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine, or an imitation of one below `root`."""

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def at(self, path: str) -> Path:
        """Return a path of this machine."""
        return self.root / path.lstrip("/")

    @property
    def user_home(self) -> Path:
        """The user's home directory; on AutoDL it is on the system disk."""
        return Path(self.env.get("HOME") or Path.home())

    @property
    def autodl(self) -> bool:
        """Whether this is an AutoDL container."""
        return there(self.at(AUTODL_DATA))

    def on_data_disk(self, path: Path) -> bool:
        """Return whether a path is, or will be, on AutoDL's data disk; links are followed."""
        data = self.at(AUTODL_DATA)
        if path.resolve().is_relative_to(data.resolve()):
            return True
        return same_disk(path, data) and not same_disk(data, self.at("/"))

    @property
    def systemd(self) -> bool:
        """Whether a systemd runs services of this user."""
        if self.autodl or not there(self.at("/run/systemd/system")):
            return False
        return self.systemctl("show-environment").returncode == 0

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `systemctl --user ...`; a systemctl that is missing or hangs counts as failed."""
        argv = ["systemctl", "--user", *words]
        try:
            found = shutil.which("systemctl", path=self.env.get("PATH")) or "systemctl"
            return subprocess.run(
                [found, *argv[1:]],
                env=dict(self.env),
                capture_output=True,
                text=True,
                timeout=SYSTEMD_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(argv, 1, "", str(error))

    def require_systemctl(self, *words: str) -> None:
        """Run `systemctl --user ...`. Raises Pi0qError with its message if it fails."""
        done = self.systemctl(*words)
        if done.returncode:
            message = done.stderr.strip() or f"exit code {done.returncode}"
            raise Pi0qError(f"systemctl --user {' '.join(words)}: {message}. Log: journalctl --user -u {words[-1]}")


def there(path: Path) -> bool:
    """Return whether a path exists; one that this user may not see does not."""
    try:
        return path.exists()
    except OSError:
        return False


def existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    while not there(path) and path != path.parent:
        path = path.parent
    return path


def same_disk(one: Path, other: Path) -> bool:
    """Return whether two paths are, or would be, on the same file system."""
    return existing(one).stat().st_dev == existing(other).stat().st_dev


def disk_space(path: Path) -> DiskSpace:
    """Return the free space of the file system that a path is on, or will be."""
    stats = os.statvfs(existing(path))
    free, total = (blocks * stats.f_frsize // MIB for blocks in (stats.f_bavail, stats.f_blocks))
    return DiskSpace(free, total, stats.f_favail if stats.f_files else None)


def directory_mib(path: Path) -> int:
    """Return the size of a directory's files, MiB: each file once, whatever its names (files.size_mib leaves such out,
    for it counts what removing frees); links are not followed, unreadable directories count nothing."""
    total, seen = 0, set[tuple[int, int]]()
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 (a walk of 10^5 files)
                if stat.st_nlink == 1 or (stat.st_dev, stat.st_ino) not in seen:
                    total += stat.st_blocks * 512
                if stat.st_nlink > 1:
                    seen.add((stat.st_dev, stat.st_ino))
    return total // MIB
