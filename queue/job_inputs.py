"""Whether any box has what a job reads from a disk: its dataset's directory, its weights'. Pure.

A box that has it not says so with `BadInput`. Boxes that are off, lost, drained or busy have not looked; while one that
is up has not, the job waits on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pi0q.jobs.record import Record
from pi0q.queue import box_status, capacity, refusals
from pi0q.queue.box_status import Announced
from pi0q.queue.refusals import BadInput

#: Boxes that one sentence names.
NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What no box that is up has."""

    #: The box's own words for it: the first that it announced.
    lack: BadInput
    #: Boxes that have looked.
    looked: tuple[str, ...]
    #: Boxes that are known and have not looked, because they are off or lost.
    absent: tuple[str, ...] = ()

    @property
    def in_file(self) -> bool:
        """Whether the job's file is what has to change, so that no box will ever take it."""
        return self.lack.in_file

    @property
    def why(self) -> str:
        """Return the reason with the boxes that it is about."""
        off = f"; {_listed(self.absent)} {_is(self.absent)} off and did not look" if self.absent else ""
        return f"{self.lack} (looked: {_listed(self.looked)}{off})"


def verdict(job: Record, boxes: Iterable[Announced], silent_seconds: float) -> Verdict | None:
    """Return what keeps the job from every box that is up; None where one has not looked, or has all."""
    looked, absent, lacks = list[str](), list[str](), list[Sequence[BadInput]]()
    for box in boxes:
        name = str(box["name"])
        if not box_status.is_up(box, silent_seconds):
            absent.append(name)
        elif never_fits(box, job):
            continue
        elif found := of_box(box, job):
            looked.append(name)
            lacks.append(found)
        else:
            return None
    if not lacks:
        return None
    # Something that one box alone can mend comes before what is wrong on all of them.
    first = min((found[0] for found in lacks), key=lambda one: one.in_file)
    return Verdict(lack=first, looked=tuple(sorted(looked)), absent=tuple(sorted(absent)))


def of_box(box: Announced, job: Record) -> list[BadInput]:
    """Return what of the job's inputs a box said that it has not."""
    known = refusals.loads(box.get("refusals")).get(job.id, ())
    return [one for one in known if isinstance(one, BadInput)]


def never_fits(box: Announced, job: Record) -> bool:
    """Return whether the box's GPUs are too few or too small for the job even when nothing runs on them."""
    cards = capacity.announced(box)
    if cards is None:
        return False
    idle = [replace(one, measured_mib=one.total_mib, free_mib=one.total_mib, jobs=()) for one in cards]
    need = capacity.needed(job)
    return (capacity.not_chosen(need, str(box["name"]), cards) or capacity.shortage(need, idle)) is not None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
