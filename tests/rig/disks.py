"""A box with two disks, as AutoDL has them: a system disk of a few MB to spare, and a data disk.

Everything of this machine is the box's system disk; what it writes there goes to a small RAM disk laid over it, so
that a write too many fails as on a full disk. Only /root/autodl-tmp is elsewhere. Needs root and overlay mounts.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

DATA = Path("/root/autodl-tmp")
MIB = 1024 * 1024

#: $1: a directory of ours, $2: MiB that the system disk has to spare, $3: MiB of the data disk, or 0 for a directory
#: of this machine; the rest is what runs there.
ENTER = """
set -e
place=$1 spare=$2 data=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o size="$spare"m system "$place/system"
mkdir "$place/system/written" "$place/system/work"
mount -t overlay -o lowerdir=/,upperdir="$place/system/written",workdir="$place/system/work" box "$place/box"
while read -r _ at type _; do
    case "$at:$type" in
    /:*) ;;
    *:ext4 | *:xfs | *:btrfs | *:overlay | *:zfs)
        case "$at" in "$place"*) continue ;; esac
        mount --bind "$at" "$place/box$at" && mount -o remount,bind,ro "$place/box$at" ;;
    esac
done < /proc/self/mounts
mount -t proc proc "$place/box/proc"
mount --rbind /dev "$place/box/dev"
mount --rbind /sys "$place/box/sys"
mkdir -p "$place/box/root/autodl-tmp"
if [ "$data" = 0 ]; then
    mount --bind "$place/data" "$place/box/root/autodl-tmp"
else
    mount -t tmpfs -o size="$data"m data "$place/box/root/autodl-tmp"
fi
exec chroot "$place/box" "$@"
"""


class TwoDisks:
    """Such a box."""

    def __init__(self, place: Path, *, spare_mib: int, data_mib: int = 0) -> None:
        """`data_mib`: the size of its data disk; 0: a directory of this machine, `data`, and as large as that."""
        self.place, self.spare_mib, self.data_mib = place, spare_mib, data_mib
        for name in ("system", "box", "data"):
            (place / name).mkdir(parents=True)
        #: Its data disk, seen from outside.
        self.data = place / "data"
        self.process: subprocess.Popen[bytes] | None = None
        #: The most that was ever written to the system disk, as far as it was looked at, bytes.
        self.most = 0

    def start(self, argv: Sequence[str], env: Mapping[str, str], *, log: Path) -> None:
        """Runs a command on it; what it starts ends with it."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "bash"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*enter, str(self.place), str(self.spare_mib), str(self.data_mib), *argv],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _inner(self) -> int:
        """The pid of the first process on it, as this machine sees it; 0 before it is there."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = path.read_text().split() if path.exists() else []
        root = Path(f"/proc/{children[0]}/root/root") if children else None
        # ismount would follow /proc/PID/root to this machine's own root.
        inside = root and root.exists() and (root / DATA.name).exists() and _device(root / DATA.name) != _device(root)
        return int(children[0]) if inside else 0

    def inside(self, path: Path) -> Path:
        """A path of the box's, seen from outside while it runs; for names, not for links."""
        return Path(f"/proc/{self._inner()}/root{path}")

    def look(self) -> int:
        """Bytes that are on the system disk now more than before."""
        if not (pid := self._inner()):
            return 0
        stats = os.statvfs(f"/proc/{pid}/root")
        written = (stats.f_blocks - stats.f_bfree) * stats.f_frsize
        self.most = max(self.most, written)
        return written

    def written(self) -> dict[str, int]:
        """Every file that is new or another on the system disk, with its bytes; asked while the box runs."""
        find = ["find", str(self.place / "system" / "written"), "-type", "f", "-printf", "%s %P\n"]
        told = subprocess.run(
            ["nsenter", f"--mount=/proc/{self._inner()}/ns/mnt", *find], capture_output=True, text=True, check=True
        )
        pairs = (line.partition(" ") for line in told.stdout.splitlines())
        return {f"/{path}": int(size) for size, _, path in pairs}

    def close(self) -> None:
        """Ends all that runs on it; the RAM disk goes with that."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class SmallDisk:
    """A file system of a few MiB at a directory, as a box's data disk; needs root."""

    def __init__(self, place: Path, *, mib: int, inodes: int = 40_000) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        options = f"size={mib}m,nr_inodes={inodes}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "pi0q-test", str(place)], check=True)

    @property
    def filler(self) -> Path:
        """What another tenant of the disk wrote there."""
        return self.place / "filler"

    def leave(self, mib: int) -> None:
        """Fills it up to this many MiB."""
        self.filler.unlink(missing_ok=True)
        with self.filler.open("wb") as file:
            while True:
                free = os.statvfs(self.place)
                try:
                    os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - mib * MIB)
                    return
                except OSError as error:
                    # The trainer wrote in between.
                    if error.errno != errno.ENOSPC:
                        raise

    def leave_files(self, count: int) -> None:
        """Uses up inodes until this many are left."""
        folder = self.place / "files"
        folder.mkdir(exist_ok=True)
        for number in range(os.statvfs(self.place).f_favail - count):
            (folder / str(number)).symlink_to("x")

    def empty(self) -> None:
        """The other tenant goes."""
        self.filler.unlink(missing_ok=True)
        shutil.rmtree(self.place / "files", ignore_errors=True)

    def close(self) -> None:
        """Unmounts it, whoever still has files open there."""
        subprocess.run(["umount", "-l", str(self.place)], check=True)


@cache
def no_mounts() -> str:
    """Why this machine can't mount a small disk; empty where it can."""
    place = Path(tempfile.mkdtemp())
    try:
        SmallDisk(place, mib=1).close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no file system can be mounted here: {error}"
    finally:
        place.rmdir()
    return ""


def _device(path: Path) -> int:
    return path.stat().st_dev


@cache
def refusal() -> str:
    """Why this machine can't have such a box; empty where it can."""
    import tempfile

    if os.getuid() != 0:
        return "only root can lay a disk over another"
    with tempfile.TemporaryDirectory() as place:
        disks = TwoDisks(Path(place), spare_mib=1)
        log = Path(place) / "log"
        disks.start(["true"], os.environ, log=log)
        assert disks.process is not None
        return "" if disks.process.wait() == 0 else log.read_text(errors="replace").strip() or "it can't be mounted"
