"""A job that continues an ended one inherits the checkpoints that the ended one has on this box."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from pi0q.jobs.job_id import is_job_id
from pi0q.workers.host import files
from pi0q.workers.runs.lease import LeaseExpired
from pi0q.workers.runs.run_directory import RunDirectory

log = logging.getLogger(__name__)


def predecessor(directory: RunDirectory, continues: str) -> RunDirectory | None:
    """Return the run directory of the ended job if its checkpoints can be inherited.

    None where it has none here, its runner is active again, or this job has checkpoints of its own.
    """
    before = RunDirectory(directory.path.parent / continues)
    if not is_job_id(continues) or not before.checkpoints.is_dir() or directory.checkpoints.is_dir():
        return None
    return None if before.other_runner(sys.maxsize) is not None else before


def inherit_checkpoints(directory: RunDirectory, continues: str, *, may_write: Callable[[], bool]) -> bool:
    """Move the ended job's checkpoints here, all at once; return whether any were moved.

    Raises LeaseExpired, OSError.
    """
    before = predecessor(directory, continues)
    if before is None:
        return False
    if not may_write():
        raise LeaseExpired
    directory.output.mkdir(exist_ok=True)
    before.checkpoints.rename(directory.checkpoints)
    for folder in (before.output, directory.output, directory.path):
        files.fsync(folder)
    log.info("inherited the checkpoints of job %s on this box", continues)
    return True
