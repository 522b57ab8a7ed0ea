"""Which caches are in use, when each was last, and which a user keeps: marks beside them, for all who share them.

    HF_HOME/pi0q/models--owner--name.used     its time is the last use's; each run holds a shared lock on it while it
                                              lives, whoever removes the cache an exclusive one
    HF_HOME/pi0q/models--owner--name.pinned   a user keeps it
    PI0Q_HOME/cache/.pi0q/inductor.used       the same for the caches of this box alone

A lock goes with its process, however that ends. Access times of files say nothing: most disks don't keep them.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

#: What this process uses, until it ends: mark -> its open file.
_held: dict[Path, int] = {}


def of_hub(hf_home: Path) -> Path:
    """Where the marks of the Hub's repositories are."""
    return hf_home / "pi0q"


def of_box(home: Path) -> Path:
    """Where the marks of a box's own caches are."""
    return home / "cache" / ".pi0q"


def hold(marks: Path, name: str, *, touch: bool = True) -> None:
    """This process uses the cache from now on to its end; waits while someone removes it.

    `touch`: this counts as a use. A place without locks, or that can't be written to, is no reason not to run.
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


def release() -> None:
    """Ends all uses of this process."""
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
    """Whether nobody uses it; then nobody begins to until the block is left."""
    file = _open(marks / f"{name}.used")
    try:
        yield _lock(file)
    finally:
        os.close(file)


def _open(mark: Path) -> int:
    """A mark that is new says that nobody ever used it."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    new = not mark.exists()
    file = os.open(mark, os.O_RDWR | os.O_CREAT, 0o644)
    if new:
        os.utime(file, (0, 0))
    return file


def _lock(file: int) -> bool:
    """Whether nobody else holds it; where there are no locks nobody can tell, and it counts as held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def in_use(marks: Path, name: str) -> bool:
    """Whether a run that lives uses it; that counts as a use."""
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
    """When it was last used, in seconds since 1970; 0 if no job of pi0q ever did."""
    with contextlib.suppress(OSError):
        return (marks / f"{name}.used").stat().st_mtime
    return 0.0


def pinned(marks: Path, name: str) -> bool:
    """Whether a user keeps it."""
    return (marks / f"{name}.pinned").exists()


def pin(marks: Path, name: str, keep: bool) -> None:
    """Keeps it, or no longer."""
    marks.mkdir(parents=True, exist_ok=True)
    mark = marks / f"{name}.pinned"
    if keep:
        mark.touch()
    else:
        mark.unlink(missing_ok=True)
