"""What each queued job of a list waits for: a value, and its few words. Pure; `pi0q why` tells the whole of one job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from pi0q.jobs.amounts import gib
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.queue import box_status, job_text
from pi0q.queue.box_status import Announced
from pi0q.queue.job_list import Page
from pi0q.queue.refusals import CardsTaken, Refusal, SlotsInUse, TooFewGpus, TooLittleVram

#: Boxes up to which a list reads what each of them refuses; beyond that it tells places alone.
MOST_BOXES = 30


class WaitKind(str, Enum):
    """Why a job has not started."""

    #: Boxes may take it: its turn has not come, or their slots are in use.
    TURN = "turn"
    #: No worker runs.
    NO_BOX = "no_box"
    #: Users keep every box from new jobs.
    DRAINED = "drained"
    #: Every box refuses it.
    REFUSED = "refused"
    #: No card has the memory that it needs, not even an idle one.
    TOO_BIG = "too_big"
    #: A user holds it.
    HELD = "held"
    #: It waits for another job, a time, its turn in a sweep, or is a sweep itself.
    AFTER = "after"


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Why one job has not started."""

    kind: WaitKind
    #: How many jobs come before it; None for one that is far behind, or in no queue.
    place: int | None = None
    #: In how many seconds it may start, by the ETAs of running jobs; None where nobody can tell.
    start_seconds: float | None = None
    #: TURN: the boxes that will take it, where none of them has a free slot. REFUSED: the boxes that refuse it.
    boxes: tuple[str, ...] = ()
    #: REFUSED: why the first of these boxes does.
    refusal: Refusal | None = None
    #: TOO_BIG: what it needs on a card and what the largest card has, MiB.
    needed_mib: int = 0
    largest_mib: int = 0
    #: HELD: by whom or for what; AFTER: for what; in words.
    held: str = ""
    #: AFTER: the ids of the jobs that it waits for, and when it may enter the queue, milliseconds since 1970.
    jobs: tuple[str, ...] = ()
    start_ms: int | None = None

    def __str__(self) -> str:
        """Return the wait in a few words, for a line of a list."""
        if self.kind is WaitKind.TURN:
            return ", ".join(
                filter(
                    None,
                    [_place(self.place, self.start_seconds), f"waits for {_named(self.boxes)}" if self.boxes else ""],
                )
            )
        if self.kind is WaitKind.REFUSED:
            more = len(self.boxes) - 1
            return f"{self.boxes[0]}: {self.refusal}" + (f" (and {more} more box{'es' * (more > 1)})" if more else "")
        if self.kind is WaitKind.TOO_BIG:
            return f"too big: needs {gib(self.needed_mib)} on a card, the largest has {gib(self.largest_mib)}"
        if self.kind is WaitKind.HELD:
            return f"held {self.held}".rstrip()
        if self.kind is WaitKind.AFTER:
            return self.held
        return {WaitKind.NO_BOX: "no box is up", WaitKind.DRAINED: "every box is drained"}[self.kind]


def notes(page: Page, boxes: Sequence[Announced], silent_seconds: float) -> dict[str, str]:
    """Return a note for each queued job of the page, by id; arguments as those of `waits`."""
    found = waits((job for job in page.jobs if job.state is State.QUEUED), page.places, boxes, silent_seconds)
    return {job_id: str(replace(wait, start_seconds=page.starts.get(job_id))) for job_id, wait in found.items()}


def waits(
    jobs: Iterable[Record], places: Mapping[str, int], boxes: Sequence[Announced], silent_seconds: float
) -> dict[str, Wait]:
    """Return why each of these queued or held jobs waits, by id.

    Args:
        jobs: Those of a list; of others nothing is said.
        places: How far each job is from being next, as `Page.places`.
        boxes: The boxes as `StoreReads.boxes_about` has them.
        silent_seconds: As in `box_status.is_up`.
    """
    known, up = len(boxes) <= MOST_BOXES, [box for box in boxes if box_status.is_up(box, silent_seconds)]
    found = {}
    for job in jobs:
        place = places.get(job.id)
        if job.state is State.WAITING:
            found[job.id] = _outside(job)
        elif job.state is State.QUEUED:
            found[job.id] = _wait(job, up, place) if known else Wait(kind=WaitKind.TURN, place=place)
    return found


def _place(place: int | None, start: float | None = None) -> str:
    if place is None:
        return ""
    line = "next" if place == 0 else f"{place} before it"
    return f"{line}, in ~{job_text.span(start)}" if start else line


def _outside(job: Record) -> Wait:
    """Return why a job is not in the queue."""
    if job.held:
        return Wait(kind=WaitKind.HELD, held=job.held)
    return Wait(
        kind=WaitKind.AFTER, held=job_text.waits_for(job), jobs=tuple(sorted(job.awaits)), start_ms=job.start_ms
    )


def _wait(job: Record, up: Sequence[Announced], place: int | None) -> Wait:
    if not up:
        return Wait(kind=WaitKind.NO_BOX, place=place)
    refused = {box["name"]: _lasting(box_status.reasons(box, job)) for box in up if not box.get("drain")}
    if not refused:
        return Wait(kind=WaitKind.DRAINED, place=place)
    open_to_it = tuple(name for name, why in refused.items() if not why)
    if not open_to_it:
        return _shared(job, refused, place)
    free = [box for box in up if box["name"] in open_to_it and not _lacks_room(box, job)]
    return Wait(kind=WaitKind.TURN, place=place, boxes=() if free or place is None else open_to_it)


def _lasting(reasons: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Return the reasons that do not pass as soon as a running job ends."""
    return tuple(one for one in reasons if not _passes(one))


def _lacks_room(box: Announced, job: Record) -> bool:
    """Return whether a box that may take the job has no slot, or too few free cards, for it now."""
    return box_status.is_full(box) or any(map(_passes, box_status.reasons(box, job)))


def _passes(reason: Refusal) -> bool:
    if isinstance(reason, TooLittleVram):
        return reason.needed_mib <= reason.total_mib
    return isinstance(reason, (CardsTaken, SlotsInUse))


def _shared(job: Record, refused: Mapping[str, Sequence[Refusal]], place: int | None) -> Wait:
    """Return why a box refuses the job that has GPUs for it; where none has, how far the largest card falls short."""
    first = {name: why[0] for name, why in refused.items()}
    largest = max((why.total_mib for why in first.values() if isinstance(why, TooLittleVram)), default=0)
    others = {name: why for name, why in first.items() if not isinstance(why, (TooLittleVram, TooFewGpus))}
    if others or not largest:
        chosen = others or first
        why = next(iter(chosen.values()))
        return Wait(kind=WaitKind.REFUSED, place=place, boxes=tuple(chosen), refusal=why)
    needed = job.needs.get("vram_mib", 0)
    return Wait(kind=WaitKind.TOO_BIG, place=place, needed_mib=needed, largest_mib=largest)


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} or {names[1]}" if len(names) == 2 else f"{len(names)} boxes"
