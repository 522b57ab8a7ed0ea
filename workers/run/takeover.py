"""A job that continues an ended one takes over what that one left on this box."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.saves import NotOurs

#: An id as `submit` makes it; whatever else stands in the record is no name of a directory.
ID = re.compile(r"[0-9a-f]{12}")


def left(directory: RunDirectory, continues: str) -> RunDirectory | None:
    """What the ended job left here that is to become this one's; None if there is nothing, or it is not to be had."""
    before = RunDirectory(directory.path.parent / continues)
    if not ID.fullmatch(continues) or not before.checkpoints.is_dir() or directory.checkpoints.is_dir():
        return None
    return None if before.other_runner(sys.maxsize) is not None else before


def take_over(directory: RunDirectory, continues: str, *, say: Callable[[str], None], ours: Callable[[], bool]) -> bool:
    """Moves the ended job's checkpoints here, all and at once; whether anything was moved. Raises NotOurs, OSError.

    Nothing is moved where this job has checkpoints of its own, or the other is at work again.
    """
    before = left(directory, continues)
    if before is None:
        return False
    if not ours():
        raise NotOurs
    directory.output.mkdir(exist_ok=True)
    before.checkpoints.rename(directory.checkpoints)
    for folder in (before.output, directory.output, directory.path):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    say(f"took over the checkpoints that {continues} left on this box")
    return True
