"""Cards that are kept for waiting jobs: what this box obeys at its claims, and what it proposes for all boxes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.queue import capacity, refusals, schedule
from pi0q.queue.box_status import Announced
from pi0q.queue.reservation import CardReservation, Plan, pressed_json
from pi0q.queue.schedule import UNKNOWN, Reserved, Waiting
from pi0q.queue.schedule_view import forecast_boxes, rank_at, waiting_job
from pi0q.workers.agent.context import BoxContext
from pi0q.workers.host.probe import Host

logger = logging.getLogger(__name__)


class Reservations:
    """The reservations as this box last saw them."""

    def __init__(self, context: BoxContext) -> None:
        self.context = context
        self.plan = Plan()

    def refresh(self) -> None:
        """Read what is reserved; where it is this box's turn, plan anew for all boxes."""
        store, timing = self.context.store, self.context.settings.timing
        self.plan = store.plan(every_seconds=timing.beat * 0.8)
        if self.plan.due:
            self._propose()
            self.plan = store.plan()

    def here(self, host: Host) -> tuple[Reserved, ...]:
        """Return what is reserved of this box's cards, by their numbers in the measurement."""
        cards, plan = [gpu.uuid for gpu in host.gpus], self.plan
        found = (one.on(self.context.name, cards, plan.now_ms) for one in plan.reservations)
        return tuple(one for one in found if one is not None)

    def give_up(self, job_id: str) -> None:
        """Give back the cards of this box that are kept for a job which it refuses for a reason that does not pass."""
        left = [one for one in self.plan.reservations if (one.job_id, one.box) != (job_id, self.context.name)]
        if len(left) == len(self.plan.reservations):
            return
        logger.info("the cards that were kept here for %s are free again: the box refuses it", job_id)
        store = self.context.store
        store.reserve(self.plan, left, pressed_json(self.plan.pressed, self.plan.long, self.plan.held))
        self.plan = store.plan()

    def _propose(self) -> None:
        """Reserve cards for the first jobs that need several; say which classes of jobs come first."""
        store, timing, fair = self.context.store, self.context.settings.timing, self.context.settings.fair_share
        boxes = store.boxes()
        fleet = forecast_boxes(boxes, timing.silent)
        waiting = store.waiting()
        jobs = [waiting_job(job, place, rank_at(job, self.plan.now_ms)) for place, job in enumerate(waiting)]
        pressed, long = schedule.pressure(jobs, fleet)
        several = [job for job in schedule.in_turn(jobs, fleet, fair=fair) if job.gpus > 1]
        uuids = {box["name"]: _uuids(box) for box in boxes}
        refused = self._refused(several[: 2 * schedule.MOST_RESERVATIONS], [box.name for box in fleet])
        refused |= _not_chosen(waiting, boxes)
        wanted = [
            CardReservation(
                job_id=one.job_id,
                box=one.box,
                cards=tuple(uuids[one.box][card] for card in one.cards),
                from_ms=None if one.start == UNKNOWN else self.plan.now_ms + round(one.start * 1000),
                expires_ms=self.plan.now_ms + round(timing.silent * 1000),
            )
            for one in schedule.reserve(several, fleet, refused)
        ]
        store.reserve(self.plan, wanted, pressed_json(pressed, long, schedule.held_cards(fleet) if fair else None))

    def _refused(self, jobs: list[Waiting], boxes: list[str]) -> set[tuple[str, str]]:
        """Return which of these jobs which boxes refuse for reasons that do not pass, as they announced them."""
        known = self.context.store.announced_refusals([job.id for job in jobs], boxes)
        return {pair for pair, why in known.items() if refusals.lasts(why)}


def _not_chosen(waiting: Iterable[Record], boxes: Sequence[Announced]) -> set[tuple[str, str]]:
    """Return which of these jobs may not run on which boxes by their files' choice."""
    choosy = [(job.id, capacity.needed(job)) for job in waiting if job.choice]
    return {
        (job_id, box["name"])
        for box in boxes
        for job_id, need in choosy
        if capacity.not_chosen(need, box["name"], capacity.announced(box) or ())
    }


def _uuids(box: Announced) -> list[str]:
    try:
        return [str(card.get("uuid", "")) for card in json.loads(box.get("gpus") or "[]")]
    except (ValueError, AttributeError) as error:
        raise Pi0qError(f"{box['name']} announced cards that can't be read: {error}") from None
