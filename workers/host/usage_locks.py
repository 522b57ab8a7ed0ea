"""Usage locks of caches: which are in use, when each was last used, and which a user pinned. Shared by all boxes.

    HF_HOME/pi0q/models--owner--name.used     its time is that of the last use; a run holds a shared lock on it,
                                              eviction an exclusive one
    HF_HOME/pi0q/models--owner--name.pinned   a user pinned it
    PI0Q_HOME/cache/.pi0q/inductor.used       the same for the caches of this box alone

The kernel releases a lock when its process ends. Access times are of no use: most disks don't keep them.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

#: Locks of this process, held until it ends: mark -> its open file.
_held: dict[Path, int] = {}


def of_hub(hf_home: Path) -> Path:
    """Return the folder of the marks of the Hub's repositories."""
    return hf_home / "pi0q"


def of_box(home: Path) -> Path:
    """Return the folder of the marks of a box's own caches."""
    return home / "cache" / ".pi0q"


def hold(marks: Path, name: str, *, touch: bool = True) -> None:
    """Mark the cache as in use until this process ends; wait while it is being removed.

    `touch`: this counts as a use. Without locks or write access the cache is used all the same.
    """
    mark = marks / f"{name}.used"
    with contextlib.suppress(OSError):
        if mark not in _held:
            file = _open(mark)
            fcntl.flock(file, fcntl.LOCK_SH)
            _held[mark] = file
        if touch:
            os.utime(_held[mark])
            atexit.register(_touch, mark)


def let_go(marks: Path, name: str) -> None:
    """Release the lock of one cache: this process lives on and uses it no more."""
    mark = marks / f"{name}.used"
    if mark in _held:
        os.close(_held.pop(mark))


def release() -> None:
    """Release all locks of this process."""
    while _held:
        mark, file = _held.popitem()
        atexit.unregister(_touch)
        _touch(mark)
        os.close(file)


def _touch(mark: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(mark)


@contextlib.contextmanager
def alone(marks: Path, name: str) -> Iterator[bool]:
    """Enter with whether nobody uses the cache; if so, nobody can start to before the block is left."""
    file = _open(marks / f"{name}.used")
    try:
        yield _lock(file)
    finally:
        os.close(file)


def _open(mark: Path) -> int:
    """Open the mark; a new one says that the cache was never used."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    new = not mark.exists()
    file = os.open(mark, os.O_RDWR | os.O_CREAT, 0o644)
    if new:
        os.utime(file, (0, 0))
    return file


def _lock(file: int) -> bool:
    """Return whether nobody else holds it; on a file system without locks it counts as held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def in_use(marks: Path, name: str) -> bool:
    """Return whether a live run uses it, which counts as a use."""
    mark = marks / f"{name}.used"
    try:
        file = os.open(mark, os.O_RDWR)
    except OSError:
        return False
    try:
        if used := not _lock(file):
            _touch(mark)
        return used
    finally:
        os.close(file)


def last(marks: Path, name: str) -> float:
    """Return when it was last used, in seconds since 1970; 0 if no job of pi0q ever used it."""
    with contextlib.suppress(OSError):
        return (marks / f"{name}.used").stat().st_mtime
    return 0.0


def pinned(marks: Path, name: str) -> bool:
    """Return whether a user pinned it."""
    return (marks / f"{name}.pinned").exists()


def pin(marks: Path, name: str, keep: bool) -> None:
    """Pin it, or end that."""
    marks.mkdir(parents=True, exist_ok=True)
    mark = marks / f"{name}.pinned"
    if keep:
        mark.touch()
    else:
        mark.unlink(missing_ok=True)
