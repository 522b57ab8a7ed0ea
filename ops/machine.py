"""The machine that pi0q is on, and what kind it is. Every path goes below a root, so that one can be imitated."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: AutoDL's data disk: kept when the container is off, never part of a saved image.
AUTODL_DATA = "/root/autodl-tmp"
#: AutoDL's region-wide file storage, a slow NFS with a cap on files.
AUTODL_FILES = "/root/autodl-fs"
#: Run by AutoDL whenever the container starts; there is none until someone makes it.
AUTODL_HOOK = "/etc/autodl.sh"
#: Seconds that systemd has to answer.
SYSTEMD_SECONDS = 10.0


class Room(NamedTuple):
    """What a file system has left."""

    free_mib: int
    total_mib: int
    #: Files that can still be made; None where there is no such limit.
    free_files: int | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine, or an imitation of one below `root`."""

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def at(self, path: str) -> Path:
        """A path of this machine's."""
        return self.root / path.lstrip("/")

    @property
    def user_home(self) -> Path:
        """Where the user's own files are; on AutoDL's system disk."""
        return Path(self.env.get("HOME") or Path.home())

    @property
    def autodl(self) -> bool:
        """Whether this is one of AutoDL's containers."""
        return there(self.at(AUTODL_DATA))

    def on_data_disk(self, path: Path) -> bool:
        """Whether something is, or will be, on AutoDL's data disk, be it through links."""
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
        """`systemctl --user …`; a systemctl that is not there or hangs has failed."""
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

    def number(self, path: str) -> int | None:
        """The number in a file of the kernel's; None where there is none, or it says `max`."""
        try:
            text = self.at(path).read_text().split()[0]
        except (OSError, IndexError):
            return None
        return int(text) if text.isdigit() else None


def there(path: Path) -> bool:
    """Whether it exists for all that this user may see; below another's home that is nothing."""
    try:
        return path.exists()
    except OSError:
        return False


def existing(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    while not there(path) and path != path.parent:
        path = path.parent
    return path


def same_disk(one: Path, other: Path) -> bool:
    """Whether two paths are, or would be, on one file system."""
    return existing(one).stat().st_dev == existing(other).stat().st_dev


def room(path: Path) -> Room:
    """The file system that a path is on, or will be."""
    stats = os.statvfs(existing(path))
    unit = stats.f_frsize / 2**20
    return Room(int(stats.f_bavail * unit), int(stats.f_blocks * unit), stats.f_favail if stats.f_files else None)


def size_mib(path: Path) -> int:
    """What lies in a directory, without following links; what can't be read counts for nothing."""
    total = 0
    for folder, _, names in os.walk(path, onerror=None):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 (a walk of 10^5 files)
            except OSError:
                continue
    return total // 2**20
