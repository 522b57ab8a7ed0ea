"""Sentences of a run for its user: how its trainer began, and how it was stopped."""

from __future__ import annotations

from collections.abc import Sequence

from pi0q.jobs.outcome import EXIT_SAVED_AND_STOPPED, Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import State
from pi0q.workers.runs.stop import StopCause


def beginning(record: Record, resume: Saved | None, *, box: str, back: str = "") -> str:
    """Return where the training starts, and why not at the checkpoint that the queue knows of.

    `back`: the place from whose copy the checkpoint was restored.
    """
    if resume:
        newer = record.checkpoint if record.checkpoint and record.checkpoint.step > resume.step else None
        elsewhere = last_box(record) not in (None, box)
        lost = f"; its checkpoint of step {newer.step} is on {last_box(record)}" if newer and elsewhere else ""
        return f"resumed from step {resume.step}" + (f", brought back from its copy in {back}" if back else "") + lost
    if record.checkpoint is None:
        return "from step 0"
    where = last_box(record)
    if where in (None, box):
        return f"from step 0: its checkpoint of step {record.checkpoint.step} is not here any more, or damaged"
    return f"from step 0: its checkpoint of step {record.checkpoint.step} is on {where} and no copy of it is here"


def last_box(record: Record) -> str | None:
    """Return the box that trained the job last, before this claim; its checkpoint lies there."""
    before = [event for event in record.history if event.box and event.epoch < record.epoch]
    trained = [event for event in before if event.state is State.RUNNING]
    return (trained or before)[-1].box if before else None


#: What to do about a job that wanted a GPU and got a simulated one.
SIMULATED_FIX = (
    "Simulated GPUs (PI0Q_FAKE_GPUS) are for trying the queue out, no training can run on them: unset "
    "PI0Q_FAKE_GPUS on the box and restart its worker, or write `device: cpu` and `resources: {gpus: 0}` into the file."
)


def simulated(gpus: Sequence[str]) -> str:
    """Return why a job without CUDA had none, where its GPUs were simulated; "" where they were real."""
    return "its GPU is simulated" if any(gpu.startswith("FAKE-") for gpu in gpus) else ""


#: Of these reasons the sentence says what became of the steps since the last save.
_SAY_SAVED = frozenset({Reason.STOPPED_BY_BOX, Reason.DISK_LOW, Reason.DISK_FULL, Reason.TIME_LIMIT})


def stopped(cause: StopCause, code: int | None, *, what: str = "") -> str:
    """Return the sentence for a run that was asked to stop.

    `code`: exit code of its trainer, None if it had none yet. `what`: says more than the cause's own text.
    """
    what = what or cause.text
    if cause.reason not in _SAY_SAVED:
        return what
    if code is None:
        return f"{what}; stopped before its trainer started"
    return f"{what}; " + ("saved and stopped" if code == EXIT_SAVED_AND_STOPPED else "stopped without a save")
