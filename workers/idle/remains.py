"""What of jobs is on this box's disk and nowhere else: checkpoints without a copy, post-run tasks that are not done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.workers.checkpoints import local_store
from pi0q.workers.idle.decision import OpenTask
from pi0q.workers.runs.postrun_tasks import FAILED, everywhere
from pi0q.workers.runs.run_directory import RunDirectory


def open_tasks(runs: Path) -> list[OpenTask]:
    """Return the post-run tasks of all runs here that are not done."""
    return [
        OpenTask(kind=task.kind, job=tasks.path.name, tried=task.tries > 0 or task.state == FAILED)
        for tasks in everywhere(runs)
        for task in tasks.open()
    ]


def newest_steps(runs: Path) -> Iterator[tuple[str, int]]:
    """Yield each job with sealed checkpoints here, and the step of the newest."""
    for directory in sorted(runs.glob("*")):
        if is_job_id(directory.name):
            steps = list(local_store.sealed_checkpoints(RunDirectory(directory).checkpoints))
            if steps:
                yield directory.name, steps[-1]


def only_copies(newest: Mapping[str, int], listed: Callable[[Iterable[str]], Iterable[Record]], box: str) -> list[str]:
    """Return the jobs of `newest` (job -> step) whose checkpoint is nowhere else; one without a record counts, too."""
    known = {job.id: job for job in listed(sorted(newest))}
    return [job for job, step in newest.items() if not is_elsewhere(known.get(job), step, box)]


def is_elsewhere(job: Record | None, step: int, box: str) -> bool:
    """Return whether what a checkpoint of a step here holds is verified somewhere else as well.

    A copy of it or of a later step; a later step that another box has made; or the pushed policy of a job that
    succeeded. The same step on another box says nothing: a claim leaves the record's checkpoint as it is.
    """
    if job is None:
        return False
    if job.copied is not None and job.copied.step >= step:
        return True
    if job.state is State.SUCCEEDED and job.push.get("state") == "done":
        return True
    return job.box not in (None, box) and job.checkpoint is not None and job.checkpoint.step > step
