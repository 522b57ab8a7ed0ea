"""What the schedule goes by of a job's record, and of the cards that a box announced. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pi0q.jobs.estimates import duration
from pi0q.jobs.record import Record
from pi0q.queue import box_status, capacity
from pi0q.queue.schedule import HIGH, LOW, NORMAL, UNKNOWN, URGENT, BoxCards, Card, Waiting

if TYPE_CHECKING:
    from pi0q.queue.box_status import Announced

RANKS = {"urgent": URGENT, "high": HIGH, "normal": NORMAL, "low": LOW}
#: A waiting job counts one priority higher after so long, again and again: AGE_MS in common.lua.
AGE_SECONDS = 24 * 3600.0
#: Between the places of one priority and the next: common.lua has the same.
PRIORITY_SPAN = 2.0**50
#: A job's own pace is believed to this part: boxes differ, and so do neighbours.
MARGIN = 1.25
#: To prepare a job and to save its last checkpoint: what comes to the time of its training.
STOP_SECONDS = 300.0


def rank_at(job: Record, now_ms: int) -> int:
    """Return the job's priority as it counts now: one earlier for each day that it has waited, never as urgent."""
    stated = RANKS.get(job.priority, NORMAL)
    waited = (now_ms - (job.queued_ms or now_ms)) / 1000
    return min(stated, max(HIGH, stated - int(max(0.0, waited) // AGE_SECONDS)))


def rank_of(place: float) -> int:
    """Return the priority that a place in the queue's index stands for (`split` in common.lua)."""
    return math.floor(place / PRIORITY_SPAN + 0.5)


def waiting_job(job: Record, place: float, rank: int) -> Waiting:
    """Return a waiting job as the schedule sees it; `place`: where it stands in the queue, the smaller comes first."""
    need = capacity.needed(job)
    return Waiting(
        id=job.id,
        gpus=need.gpus,
        vram_mib=need.vram_mib,
        rank=rank,
        # One that a box had before is next again.
        submitted=0.0 if job.epoch else job.created_ms / 1000,
        place=place,
        seconds=seconds_left(job),
        at_most=at_most(job),
        user=job.submitter,
    )


def seconds_left(job: Record) -> float:
    """Return the seconds that the job's steps still take: by its own pace, else by what such jobs take at the least."""
    if not job.steps:
        return limit_left(job)
    left = max(0, job.steps - (job.checkpoint.step if job.checkpoint else 0))
    train = job.spec.get("train")
    if job.step_seconds:
        by_steps = left * job.step_seconds
    else:
        by_steps = duration.guessed_seconds(train, steps=left) if isinstance(train, Mapping) and train else UNKNOWN
    return min(by_steps, limit_left(job))


def limit_left(job: Record) -> float:
    """Return the seconds that the job may still train by its `time_limit`; UNKNOWN without one."""
    text = job.spec.get("time_limit")
    try:
        limit = float(str(text).removesuffix("s")) if text else UNKNOWN
    except ValueError:
        return UNKNOWN
    return max(0.0, limit - job.trained_seconds) if limit > 0 else UNKNOWN


def at_most(job: Record) -> float:
    """Return the seconds after which a waiting job has ended for sure: by its measured pace, or its `time_limit`."""
    by_pace = seconds_left(job) * MARGIN if job.step_seconds and job.steps else UNKNOWN
    return min(by_pace, limit_left(job)) + STOP_SECONDS


def until_end(job: Record) -> float:
    """Return the seconds until a job that a box owns ends, as of its last report; UNKNOWN where nobody can tell."""
    by_steps = job.eta_seconds if job.eta_seconds is not None else seconds_left(job)
    return min(by_steps, limit_left(job))


def busy_text(cards: Iterable[Sequence[Record | None]]) -> str:
    """Return what a box announces of its cards: the seconds until each is free, null where nobody can tell.

    `cards`: the jobs on each card, None for one of which the box knows nothing.
    """
    ends = [max((UNKNOWN if job is None else until_end(job) for job in jobs), default=0.0) for jobs in cards]
    # Zero is a card that is free now: a job that ends soon has not ended.
    found = [
        0 if not jobs else None if math.isinf(end) else max(1, round(end))
        for end, jobs in zip(ends, cards, strict=True)
    ]
    return json.dumps(found)


def box_cards(box: Announced, silent_seconds: float) -> BoxCards | None:
    """Return the cards of a box that takes jobs, as it announced them; None for any other."""
    if not box_status.is_up(box, silent_seconds) or box.get("drain") or box.get("blocked"):
        return None
    rooms = capacity.announced(box)
    if rooms is None:
        return None
    busy = _busy(box, len(rooms))
    cards = []
    for room, seconds in zip(rooms, busy, strict=True):
        # What is measured as used of a card without a job is someone else's, and stays.
        total = room.total_mib if room.jobs else max(0, room.free_mib)
        cards.append(Card(total_mib=total, busy=seconds if room.jobs else 0.0, user=room.user))
    return BoxCards(name=box["name"], cards=tuple(cards))


def _busy(box: Announced, count: int) -> list[float]:
    """Return the seconds until each card is free, as of now; UNKNOWN for all where the box does not say so."""
    told = json.loads(box.get("busy") or "[]")
    if len(told) != count:
        return [UNKNOWN] * count
    ago = float(box["seen_seconds"])
    # One that should have ended has not: it will take as long again as it is late, at least a moment.
    return [UNKNOWN if seconds is None else max(1.0, abs(seconds - ago)) if seconds else 0.0 for seconds in told]


def forecast_boxes(boxes: Iterable[Announced], silent_seconds: float) -> list[BoxCards]:
    """Return the cards of all boxes that take jobs."""
    return [cards for box in boxes if (cards := box_cards(box, silent_seconds)) is not None]
