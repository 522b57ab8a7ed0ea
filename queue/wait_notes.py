"""What each queued job of a list waits for, in a few words. Pure; `pi0q why` tells the whole of it for one job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pi0q.jobs.amounts import gib
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.queue import box_status
from pi0q.queue.box_status import Announced
from pi0q.queue.job_list import Page
from pi0q.queue.refusals import CardsTaken, Refusal, SlotsInUse, TooFewGpus, TooLittleVram

#: Boxes up to which a list reads what each of them refuses; beyond that it tells places alone.
MOST_BOXES = 30


def notes(page: Page, boxes: Sequence[Announced], silent_seconds: float) -> dict[str, str]:
    """Return a note for each queued job of the page, by id.

    Args:
        page: Its `places` say how far each job is from being next.
        boxes: The boxes as `StoreReads.boxes_about` has them.
        silent_seconds: As in `box_status.is_up`.
    """
    queued = [job for job in page.jobs if job.state is State.QUEUED]
    if len(boxes) > MOST_BOXES:
        return {job.id: _place(page, job) for job in queued}
    up = [box for box in boxes if box_status.is_up(box, silent_seconds)]
    return {job.id: _note(job, up, _place(page, job)) for job in queued}


def _place(page: Page, job: Record) -> str:
    place = page.places.get(job.id)
    if place is None:
        return ""
    return "next" if place == 0 else f"{place} before it"


def _note(job: Record, up: Sequence[Announced], place: str) -> str:
    if not up:
        return "no box is up"
    refused = {box["name"]: _lasting(box_status.reasons(box, job)) for box in up if not box.get("drain")}
    if not refused:
        return "every box is drained"
    open_to_it = [name for name, why in refused.items() if not why]
    if not open_to_it:
        return _shared(job, refused)
    free = [box for box in up if box["name"] in open_to_it and not box_status.is_full(box)]
    return place if free or not place else f"{place}, waits for {_named(open_to_it)}"


def _lasting(reasons: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """Return the reasons that do not pass as soon as a running job ends."""
    return tuple(one for one in reasons if not _passes(one))


def _passes(reason: Refusal) -> bool:
    if isinstance(reason, TooLittleVram):
        return reason.needed_mib <= reason.total_mib
    return isinstance(reason, (CardsTaken, SlotsInUse))


def _shared(job: Record, refused: Mapping[str, Sequence[Refusal]]) -> str:
    """Return why a box refuses the job that has GPUs for it; where none has, how far the largest card falls short."""
    first = {name: why[0] for name, why in refused.items()}
    largest = max((why.total_mib for why in first.values() if isinstance(why, TooLittleVram)), default=0)
    others = {name: why for name, why in first.items() if not isinstance(why, (TooLittleVram, TooFewGpus))}
    if others or not largest:
        name, why = next(iter((others or first).items()))
        more = len(others or first) - 1
        return f"{name}: {why}" + (f" (and {more} more box{'es' * (more > 1)})" if more else "")
    return f"too big: needs {gib(job.needs.get('vram_mib', 0))} on a card, the largest has {gib(largest)}"


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} or {names[1]}" if len(names) == 2 else f"{len(names)} boxes"
