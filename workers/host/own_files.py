"""Opens directories and files that other users of a machine or a shared disk may have prepared; follows no links.

with own_directory(place, job) as folder:      # place/job, made if need be, this user's alone
    ...folder / "x"...                         # stays that directory, whatever is renamed meanwhile
open_for_writing(path), open_for_reading(path) # never through a link, never a pipe or a device
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pi0q.workers.host.places import others_can_write


class Untrusted(OSError):
    """A directory or file that another user made, owns, can write, or that is a link; the text says what."""


@contextlib.contextmanager
def own_directory(parent: Path, name: str, *, make: bool = False) -> Iterator[Path]:
    """The directory parent/name, open: a path that leads to it and nowhere else while the block runs.

    Raises Untrusted where it is a link or not this user's alone, FileNotFoundError where it is missing and `make` isn't
    given, other OSErrors as they come.
    """
    outer = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=outer)
        inner = _open_directory(outer, parent, name)
    finally:
        os.close(outer)
    try:
        yield Path(f"/proc/self/fd/{inner}")
    finally:
        os.close(inner)


def _open_directory(outer: int, parent: Path, name: str) -> int:
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise Untrusted(f"{parent / name} is a link or a file, not a directory: remove it") from None
        raise
    if why := _stranger(outer, os.fstat(inner)):
        os.close(inner)
        raise Untrusted(f"{parent / name} {why}: remove it, or choose another place")
    return inner


def _stranger(outer: int, info: os.stat_result) -> str:
    """Why this directory isn't ours, by what the disk makes of a file of ours."""
    if not (why := others_can_write(info)):
        return ""
    # A share may show every file as one user's, or writable by all: then nobody can tell, and the hashes decide.
    try:
        probe = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o600, dir_fd=outer)
    except OSError:
        probe = _named_probe(outer)
    if probe < 0:
        return why
    try:
        ours = os.fstat(probe)
    finally:
        os.close(probe)
    same = ours.st_uid == info.st_uid and ours.st_uid != os.geteuid()
    modeless = bool(ours.st_mode & stat.S_IWOTH) and ours.st_uid == info.st_uid
    return "" if same or modeless else why


def _named_probe(outer: int) -> int:
    """An empty file on a disk that knows no unnamed ones; -1 where none can be made."""
    name = f".pi0q.{os.getpid()}.probe"
    try:
        probe = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=outer)
    except OSError:
        return -1
    os.unlink(name, dir_fd=outer)
    return probe


def open_for_reading(path: Path) -> IO[bytes]:
    """A regular file, not through a link. Raises Untrusted, OSError."""
    return _regular(path, os.O_RDONLY, "rb")


def open_for_writing(path: Path, *, append: bool = False) -> IO[bytes]:
    """A regular file, made if it is missing, emptied unless `append`; not through a link. Raises Untrusted, OSError."""
    stream = _regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND * append, "ab" if append else "wb")
    if not append:
        stream.truncate(0)
    return stream


def _regular(path: Path, flags: int, mode: str) -> IO[bytes]:
    try:
        # A pipe without a reader must not hold us up.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if path.is_symlink():
            raise Untrusted(f"{path} is a link") from None
        raise error
    info = os.fstat(handle)
    # A second name would be another file's that is written through this one.
    if not stat.S_ISREG(info.st_mode) or (("w" in mode or "a" in mode) and info.st_nlink > 1):
        os.close(handle)
        raise Untrusted(f"{path} is no regular file of its own")
    return os.fdopen(handle, mode)
