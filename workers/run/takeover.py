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


def take_over(directory: RunDirectory, continues: str, *, say: Callable[[str], None], ours: Callable[[], bool]) -> bool:
    """Moves the ended job's output here, whole and at once; whether anything was moved. Raises NotOurs, OSError.

    Nothing is moved where this job has checkpoints of its own, or the other is at work again.
    """
    before = RunDirectory(directory.path.parent / continues)
    if not ID.fullmatch(continues) or not before.checkpoints.is_dir() or directory.checkpoints.is_dir():
        return False
    if before.other_runner(sys.maxsize) is not None:
        return False
    if not ours():
        raise NotOurs
    directory.set_output_aside()
    before.output.rename(directory.output)
    for folder in (before.path, directory.path):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    say(f"took over what {continues} left on this box")
    return True
