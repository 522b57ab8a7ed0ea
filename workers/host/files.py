"""File helpers of a box: atomic writes that survive a power cut, sizes of directories."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
#: Errors of file systems that know no fsync of a directory.
_NO_FSYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})


def write_atomic(
    path: Path, content: str | bytes, *, mode: int | None = None, before_rename: Callable[[], None] | None = None
) -> None:
    """Replace the content of `path` so that a reader, a kill or a power cut meets the old content or the new one.

    `mode` sets the permission bits (None: those of a new file under the umask); `before_rename` is called when the
    new content is on the disk, and may raise. Raises OSError; the old content and nothing else is left then.
    """
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), _default_mode() if mode is None else mode)
            os.fsync(file.fileno())
        if before_rename:
            before_rename()
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def fsync(path: Path) -> None:
    """Flush a file's bytes, or the names in a directory, to the disk. Raises OSError where the disk fails.

    A network file system that knows no flush of a directory is no failure.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


def make_private(path: Path) -> None:
    """Create a directory that only its owner may enter (0700), or make an existing one of ours so. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True)
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o700)


def fsync_directory(path: Path) -> None:
    """Flush the names in a directory to its disk; network file systems that know no such flush are left alone."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def size_mib(path: Path) -> int:
    """Return what removing a directory frees, MiB; a file that has another name elsewhere frees nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 (os.walk's strings, a hot loop)
                total += stat.st_blocks * 512 if stat.st_nlink == 1 else 0
    return total // MIB


def _default_mode() -> int:
    """Return the permission bits of a new file under this process's umask, read without changing it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return 0o666 & ~int(line.split()[1], 8)
    return 0o644
