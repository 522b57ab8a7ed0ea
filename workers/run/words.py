"""What a run says of itself: how its trainer began, and how it ended."""

from __future__ import annotations

from pi0q.jobs.outcome import EXIT_SAVED_AND_STOPPED, Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import State


def beginning(record: Record, resume: Saved | None, *, box: str, back: str = "") -> str:
    """Where the training starts, and why not at the checkpoint that the queue knows of.

    `back`: the place whose copy it was brought back from.
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
    """The box that trained it last, before this claim; its checkpoint lies there."""
    before = [event for event in record.history if event.box and event.epoch < record.epoch]
    trained = [event for event in before if event.state is State.RUNNING]
    return (trained or before)[-1].box if before else None


#: What was heard from outside, and what followed: the reason, and what happened where it ended after a save.
HEARD: dict[str, tuple[Reason, str]] = {
    "cancel": (Reason.CANCELLED_BY_USER, "cancelled by its user"),
    "stop": (Reason.STOPPED_BY_BOX, "told to hand it back"),
    "fenced": (Reason.STOPPED_BY_BOX, "the queue could not be reached for too long"),
    "hung": (Reason.HUNG, "no step for too long"),
    "disk": (Reason.DISK_LOW, "the data disk ran low"),
    "full": (Reason.DISK_FULL, "the data disk is full"),
}
#: Of these what became of the steps since the last save is worth a word.
_SAVED = frozenset({Reason.STOPPED_BY_BOX, Reason.DISK_LOW, Reason.DISK_FULL})


def because(heard: str, code: int | None) -> tuple[Reason, str]:
    """Why a run ended that was told to; `code` is its trainer's, None if it had none yet."""
    reason, text = HEARD[heard]
    if reason not in _SAVED:
        return reason, text
    if code is None:
        return reason, f"{text}; stopped before its trainer began"
    return reason, f"{text}; " + ("saved and stopped" if code == EXIT_SAVED_AND_STOPPED else "stopped without a save")
