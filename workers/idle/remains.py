"""What of jobs is on this box's disk and nowhere else: checkpoints without a copy, post-run tasks that are not done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, State
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


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The checkpoints of one job on this disk."""

    #: The newest step, finished or not; 0 for none.
    any: int
    #: The newest sealed one; None where none is.
    sealed: int | None


def newest_steps(runs: Path) -> dict[str, Steps]:
    """Return the newest checkpoints of each job that has some here."""
    found = {}
    for directory in sorted(runs.glob("*")):
        if is_job_id(directory.name):
            steps = local_store.step_directories(RunDirectory(directory).checkpoints)
            sealed = [step for step, path in steps.items() if local_store.is_sealed(path)]
            if steps:
                found[directory.name] = Steps(any=max(steps), sealed=sealed[-1] if sealed else None)
    return found


def only_copies(
    newest: Mapping[str, Steps], listed: Callable[[Iterable[str]], Iterable[Record]], box: str
) -> list[str]:
    """Return the jobs whose newest checkpoint here is nowhere else; a sealed one without a record counts, too.

    Of a job that goes on and was last here, one that is not sealed counts as well: its runner died, and only until
    the host restarts are its bytes known to be whole.
    """
    known = {job.id: job for job in listed(sorted(newest))}
    found = []
    for job_id, steps in newest.items():
        job = known.get(job_id)
        goes_on = job is not None and job.state not in ENDED and job.box == box
        step = steps.any if goes_on else steps.sealed
        if step is not None and not is_elsewhere(job, step, box):
            found.append(job_id)
    return found


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
