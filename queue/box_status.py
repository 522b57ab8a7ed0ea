"""How a box is, by what it announced and how long ago: alive, unreachable, draining; and why it takes no job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pi0q.jobs.record import Record
from pi0q.jobs.record_codecs import json_of
from pi0q.jobs.state import State
from pi0q.queue import box_staging, capacity, job_text, refusals
from pi0q.queue.idle_outlook import Outlook
from pi0q.queue.idle_policy import Phase
from pi0q.queue.refusals import CardsTaken, NotChosen, Refusal, ServerRestarted, SlotsInUse, TooLittleVram

if TYPE_CHECKING:
    from pi0q.queue.store_reads import StoreReads

#: One entry of `Store.boxes`: the fields that a box announced, with `name` and `seen_seconds`.
Announced = Mapping[str, str]
#: What is told of a box that has announced nothing of a waiting job.
NOT_EVALUATED = "has not looked at it yet"


def is_reachable(box: Announced, silent_seconds: float) -> bool:
    """Return whether the box's last heartbeat is at most `silent_seconds` old (`Timing.silent` of the settings)."""
    return float(box["seen_seconds"]) <= silent_seconds


def is_up(box: Announced, silent_seconds: float) -> bool:
    """Return whether the box's worker runs: reachable, and its last heartbeat did not say that it stopped."""
    return is_reachable(box, silent_seconds) and box.get("status") != "stopped"


def names_up(boxes: Iterable[Announced], silent_seconds: float) -> set[str]:
    """Return the names of the boxes whose workers run."""
    return {box["name"] for box in boxes if is_up(box, silent_seconds)}


def status(box: Announced, silent_seconds: float) -> str:
    """Return ready, draining, drained, stopped or unreachable."""
    announced = box.get("status", "")
    if announced == "stopped":
        return announced
    if not is_reachable(box, silent_seconds):
        return "unreachable"
    if box.get("drain") and announced == "ready":
        # The box has not received the drain yet.
        return "draining"
    return announced


def outlook(box: Announced) -> Outlook | None:
    """Return what a box says of switching itself off; None for one that never does."""
    try:
        return Outlook.of_json(json_of(box["idle"])) if box.get("idle") else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def idle_text(box: Announced, now: float) -> str:
    """Return when a box switches itself off, why it does not, or since when it is off; "" where that is no news.

    `now`: seconds since 1970. That its own jobs keep a box on is seen elsewhere.
    """
    told, stopped = outlook(box), box.get("status") == "stopped"
    if told is None or (told.phase is Phase.OFF) != stopped:
        return ""
    if told.phase is Phase.NEEDED and int(box.get("running") or 0):
        return ""
    return told.text(ago=float(box["seen_seconds"]), now=now)


def waits(store: StoreReads, job: Record, silent_seconds: float, boxes: Iterable[Announced] | None = None) -> list[str]:
    """Return why a job that has not started waits, one line a box; nothing for a job that runs or ended.

    `boxes`: what `store.boxes(about=job.id)` answered, where the caller has asked already.
    """
    if job.state is State.WAITING and not job.held:
        return [job_text.waits_for(job)]
    if job.state is State.WAITING:
        return [f"held {job.held}; `pi0q release {job.id}` lets it go on"]
    if job.state is not State.QUEUED:
        return []
    if (pause := store.claim_holdoff_seconds()) > 0:
        return [str(ServerRestarted(seconds=round(pause)))]
    known = store.boxes(about=job.id) if boxes is None else boxes
    up = [box for box in known if is_up(box, silent_seconds)]
    if not up:
        return ["no box is up: `pi0q worker` on a GPU machine makes it one"]
    return [f"{box['name']}: {_refusal(box, job)}" for box in up]


def _refusal(box: Announced, job: Record) -> str:
    if box.get("drain"):
        return f"takes no new jobs ({box.get('drain_text') or 'drained'}); `pi0q drain {box['name']} --undo` ends that"
    lack = card_shortage(box, job)
    if isinstance(lack, NotChosen):
        return str(lack)
    if is_full(box) and not isinstance(lack, CardsTaken) and not capacity.shares(job):
        busy = f"busy, {used_slots(box)} of {box.get('slots')} slots in use"
        return "; ".join([busy, *map(str, lasting_refusals(box, job))])
    return "; ".join(map(str, reasons(box, job))) or NOT_EVALUATED


def used_slots(box: Announced) -> int:
    """Return how many slots are in use: trainings that share a card take one together."""
    return int(box.get("used_slots") or box.get("running") or 0)


def is_full(box: Announced) -> bool:
    """Return whether all slots are in use."""
    return used_slots(box) >= int(box.get("slots") or 1)


def card_shortage(box: Announced, job: Record) -> Refusal | None:
    """Return what the job lacks of the box's GPUs; None if nothing, or if the box does not say what it has."""
    cards, need = capacity.announced(box), capacity.needed(job)
    if cards is None:
        return None
    return capacity.not_chosen(need, str(box["name"]), cards) or capacity.shortage(need, cards)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def lasting_refusals(box: Announced, job: Record) -> tuple[Refusal, ...]:
    """Return why a box refused the job when it had room, which the end of a running job does not change."""
    passing = (CardsTaken, SlotsInUse, TooLittleVram)
    return tuple(one for one in refusals.loads(box.get("refusals")).get(job.id, ()) if not isinstance(one, passing))


def blocked(box: Announced) -> Refusal:
    """Return why the box takes no job at all; only of one that announced that."""
    return refusals.from_json(_json(box["blocked"]))


def reasons(box: Announced, job: Record) -> tuple[Refusal, ...]:
    """Return why a box that is up and has free slots does not take the job, as far as it announced that.

    A box announces no refusal of jobs that do not fit its GPUs: that follows from the numbers.
    """
    if box.get("blocked"):
        return (box_staging.about(blocked(box), box, job.id),)
    if known := refusals.loads(box.get("refusals")).get(job.id):
        return known
    lack = card_shortage(box, job)
    return (lack,) if lack else ()
