"""Where a waiting job stands, which cards are kept for it, and when it may start. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pi0q.jobs.record import Record
from pi0q.queue import box_status, job_text, refusals, schedule
from pi0q.queue.box_status import Announced
from pi0q.queue.job_list import Page, display_order
from pi0q.queue.reservation import Plan
from pi0q.queue.schedule_view import forecast_boxes, rank_at, waiting_job

#: Jobs by cards that a list forecasts: a tenth of a second of its time (measured).
MOST_STEPS = 2000


@dataclass(frozen=True, kw_only=True)
class PlaceInLine:
    """The turn of one waiting job among those that are next."""

    #: The jobs whose turn is before, in order.
    ahead: tuple[Record, ...]
    #: The box and the numbers of its cards that are kept for the job; "" and empty if none are.
    kept_on: str = ""
    kept_cards: tuple[int, ...] = ()
    #: In how many seconds it starts if running jobs end when they say so; None where nobody can tell.
    start_seconds: float | None = None


def place_in_line(
    job: Record, waiting: Sequence[Record], boxes: Sequence[Announced], plan: Plan, *, silent_seconds: float
) -> PlaceInLine | None:
    """Return the job's place; None for one that is not among those that are next.

    `waiting`: the jobs that are next in the queue; `boxes` as `Store.boxes(about=job.id)` has them.
    """
    if job.id not in (one.id for one in waiting):
        return None
    by_id = {one.id: one for one in waiting}
    asked = [waiting_job(one, number, rank_at(one, plan.now_ms)) for number, one in enumerate(waiting)]
    fleet = forecast_boxes(boxes, silent_seconds)
    ids = [one.id for one in schedule.in_turn(asked, fleet, fair=plan.fair)]
    refused = {(job.id, box["name"]) for box in boxes if refusals.lasts(box_status.reasons(box, job))}
    start = schedule.forecast(asked, fleet, refused, until=job.id, fair=plan.fair)[job.id]
    kept = plan.of_job(job.id)
    on = next((box for box in boxes if kept and box["name"] == kept.box), None)
    return PlaceInLine(
        ahead=tuple(by_id[one] for one in ids[: ids.index(job.id)]),
        kept_on=kept.box if kept else "",
        kept_cards=_numbers(on, kept.cards) if on and kept else (),
        start_seconds=None if start == schedule.UNKNOWN else start,
    )


def turned(page: Page, boxes: Sequence[Announced], silent_seconds: float, *, fair: bool) -> Page:
    """Return a page whose queued jobs stand in the order of their turns, with the starts that can be told.

    Of many jobs, for many cards, the first are ordered so; the others stay as they are. `page` with all jobs that are
    next; `boxes` as `StoreReads.boxes_about` has them; `fair`: as `Plan.fair`.
    """
    fleet = forecast_boxes(boxes, silent_seconds)
    most = max(1, MOST_STEPS // max(1, sum(len(box.cards) for box in fleet)))
    known = {job.id: job for job in page.jobs}
    first = [known[job_id] for job_id in list(page.places)[:most] if job_id in known]
    asked = [waiting_job(one, page.places[one.id], rank_at(one, page.now_ms)) for one in first]
    refused = {(job.id, box["name"]) for job in first for box in boxes if refusals.lasts(box_status.reasons(box, job))}
    turns = {one.id: place for place, one in enumerate(schedule.in_turn(asked, fleet, fair=fair))}
    told = schedule.forecast(asked, fleet, refused, fair=fair)
    places = dict(sorted({**page.places, **turns}.items(), key=lambda item: item[1]))
    return replace(
        page,
        jobs=tuple(display_order(page.jobs, places)),
        places=places,
        starts={job: seconds for job, seconds in told.items() if seconds != schedule.UNKNOWN},
    )


def _numbers(box: Announced, uuids: Sequence[str]) -> tuple[int, ...]:
    cards = json.loads(box.get("gpus") or "[]")
    return tuple(number for number, card in enumerate(cards) if card.get("uuid") in uuids)


def sentences(place: PlaceInLine) -> Iterator[str]:
    """Yield what a person reads of it, a line each."""
    count = len(place.ahead)
    line = "It is next in line" if not count else f"It is number {count + 1} in line, {count} before it"
    if place.start_seconds is None:
        yield f"{line}; when it starts nobody can tell yet."
    elif place.start_seconds <= 0:
        yield f"{line}; a box that it fits has free cards for it."
    else:
        span = job_text.span(place.start_seconds)
        yield f"{line}; it may start in {span}, if running jobs end when they say so."
    if place.kept_on:
        cards = ", ".join(map(str, place.kept_cards))
        many = len(place.kept_cards) != 1
        yield f"Card{'s' * many} {cards} of {place.kept_on} {'are' if many else 'is'} kept for it."
