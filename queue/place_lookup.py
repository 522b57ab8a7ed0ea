"""Read from the store where a waiting job stands and what it waits for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.queue import box_status, wait_notes
from pi0q.queue.box_status import Announced
from pi0q.queue.job_list import Page

if TYPE_CHECKING:
    from pi0q.queue.place_in_line import PlaceInLine
    from pi0q.queue.store_reads import StoreReads


def place_of(store: StoreReads, job: Record, boxes: Sequence[Announced], silent_seconds: float) -> PlaceInLine | None:
    """Return the place of a queued job; None for any other, and for one that is far behind.

    `boxes` as `StoreReads.boxes(about=job.id)` has them.
    """
    if job.state is not State.QUEUED:
        return None
    # Most jobs that are shown do not wait.
    from pi0q.queue.place_in_line import place_in_line

    return place_in_line(job, store.waiting(), boxes, store.plan(), silent_seconds=silent_seconds)


def told(store: StoreReads, job: Record, silent_seconds: float) -> list[str]:
    """Return where a waiting job stands and what it waits for, a line each; nothing for a job that runs or ended."""
    boxes = store.boxes(about=job.id) if job.state is State.QUEUED else []
    waits = box_status.waits(store, job, silent_seconds, boxes)
    return [*_sentences(place_of(store, job, boxes, silent_seconds), boxes, silent_seconds), *waits]


def _sentences(place: PlaceInLine | None, boxes: Iterable[Announced], silent_seconds: float) -> Iterable[str]:
    if place is None or not box_status.names_up(boxes, silent_seconds):
        return ()
    from pi0q.queue.place_in_line import sentences

    return sentences(place)


def in_turn(store: StoreReads, page: Page, silent_seconds: float) -> tuple[Page, list[dict[str, str]]]:
    """Return a page with its queued jobs in turn, and the boxes. Asks the server only where jobs are queued."""
    queued = [job.id for job in page.jobs if job.state is State.QUEUED]
    if not queued:
        return page, []
    boxes = store.boxes_about(queued, wait_notes.MOST_BOXES)
    if len(boxes) > wait_notes.MOST_BOXES:
        return page, boxes
    from pi0q.queue.place_in_line import turned

    return turned(page, boxes, silent_seconds, fair=store.plan().fair), boxes
