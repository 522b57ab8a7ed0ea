"""From records and announcements to the values of a fleet. `read` asks the server; everything else is pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pi0q.jobs.record import Record
from pi0q.jobs.record_codecs import URL
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import box_staging, box_status, place_lookup, refusals, wait_notes
from pi0q.queue.box_status import Announced
from pi0q.queue.box_text import by_name
from pi0q.queue.job_list import Page
from pi0q.queue.reading.values import (
    BoxStatus,
    BoxView,
    BrokenJob,
    CacheView,
    CardView,
    CheckpointView,
    FleetView,
    JobView,
    Link,
    LinkKind,
)
from pi0q.queue.refusals import Refusal
from pi0q.queue.store_reads import StoreReads
from pi0q.queue.wait_notes import Wait

#: Jobs that a view has at most, of each: running, queued, ended.
MOST_LIVE, MOST_ENDED = 200, 50
#: Repositories of a box's cache that a view names.
MOST_CACHED = 100


def read(store: StoreReads, silent_seconds: float, *, live: int = MOST_LIVE, ended: int = MOST_ENDED) -> FleetView:
    """Return the fleet as it is now, in three round trips. Raises the client's error.

    Args:
        silent_seconds: As in `box_status.is_up`: `Timing.silent` of the settings.
        live: How many running and how many queued jobs at most, the next ones first; -1 for all.
        ended: How many of the newest ends; -1 for all.
    """
    page = store.page(live=live, ended=ended, whole=False)
    page, boxes = place_lookup.in_turn(store, page, silent_seconds)
    # Without a queue nobody has asked for the boxes.
    return fleet(page, boxes or store.boxes(), silent_seconds)


def fleet(page: Page, announced: Sequence[Announced], silent_seconds: float) -> FleetView:
    """Return the view of some jobs and of all boxes."""
    boxes = sorted(announced, key=lambda box: by_name(box["name"]))
    waits = {
        job_id: replace(wait, start_seconds=page.starts.get(job_id))
        for job_id, wait in wait_notes.waits(page.jobs, page.places, boxes, silent_seconds).items()
    }
    uuids = {box["name"]: card_uuids(box) for box in boxes}

    def view(job: Record) -> JobView:
        return job_view(job, place=page.places.get(job.id), wait=waits.get(job.id), uuids=uuids.get(job.box or "", ()))

    def having(chosen: Callable[[Record], bool]) -> tuple[JobView, ...]:
        return tuple(view(job) for job in page.jobs if chosen(job))

    running = [job for job in page.jobs if job.state in OWNED]
    return FleetView(
        now_ms=page.now_ms,
        boxes=tuple(box_view(box, running, silent_seconds, page.now_ms) for box in boxes),
        running=tuple(map(view, running)),
        queue=having(lambda job: job.state is State.QUEUED),
        held=having(lambda job: job.state is State.WAITING),
        ended=having(lambda job: job.state in ENDED),
        broken=tuple(BrokenJob(id=error.shown_id, damage=error.damage) for error in page.broken),
        counts=page.counts,
    )


def job_view(job: Record, *, place: int | None = None, wait: Wait | None = None, uuids: Sequence[str] = ()) -> JobView:
    """Return one job's view. `uuids`: those of the cards of its box, in their order."""
    return JobView(
        id=job.id,
        name=job.name,
        user=job.submitter,
        state=job.state,
        label=job.label,
        priority=job.priority,
        phase=job.phase if job.state in OWNED else "",
        wish=job.wish,
        reason=job.reason,
        detail=" ".join(job.detail.split()),
        next_step=job.next_step,
        progress=min(1.0, (job.step or 0) / job.steps) if job.steps else None,
        step=job.step,
        steps=job.steps,
        eta_seconds=job.eta_seconds if job.state is State.RUNNING else None,
        loss=job.loss,
        lr=job.lr,
        step_seconds=job.step_seconds,
        trained_seconds=job.trained_seconds,
        box=job.box or "",
        cards=tuple(number for number, uuid in enumerate(uuids) if uuid and uuid in job.gpus),
        claim=job.epoch,
        attempt=job.attempt,
        gpus=job.needs.get("gpus", 0),
        vram_mib=job.needs.get("vram_mib", 0),
        disk_mib=job.needs.get("disk_mib", 0),
        checkpoint=newest_checkpoint(job),
        links=links(job),
        place=place,
        wait=wait,
        created_ms=job.created_ms,
        updated_ms=job.updated_ms,
        queued_ms=job.queued_ms,
        started_ms=job.started_ms,
        ended_ms=job.ended_ms,
    )


def newest_checkpoint(job: Record) -> CheckpointView | None:
    """Return the job's newest verified checkpoint; None where it has none."""
    saved = job.checkpoint
    if saved is None:
        return None
    return CheckpointView(
        step=saved.step,
        bytes=saved.bytes,
        saved_ms=job.checkpoint_ms,
        pinned=saved.step in job.protected_steps,
        copied=job.copied is not None and job.copied.step >= saved.step,
    )


def links(job: Record) -> tuple[Link, ...]:
    """Return the addresses of what the job has elsewhere."""
    found = []
    if job.wandb_url:
        found.append(Link(kind=LinkKind.WANDB, url=job.wandb_url))
    if job.swanlab_url:
        found.append(Link(kind=LinkKind.SWANLAB, url=job.swanlab_url))
    pushed = job.push.get("url")
    # A record may say anything there, and a page makes a link of it.
    with suppress(ValueError):
        found += [Link(kind=LinkKind.HUB, url=URL.read(pushed))] if pushed else []
    return tuple(found)


def box_view(box: Announced, running: Sequence[Record], silent_seconds: float, now_ms: int) -> BoxView:
    """Return one box's view. `running`: owned jobs of all boxes."""
    mine = [job for job in running if job.box == box["name"]]
    status = box_status.status(box, silent_seconds)
    return BoxView(
        name=box["name"],
        status=BoxStatus(status) if status in {one.value for one in BoxStatus} else BoxStatus.UNKNOWN,
        seen_seconds=float(box["seen_seconds"]),
        cards=tuple(cards(box, mine)),
        jobs=tuple(job.id for job in mine),
        slots=int(box.get("slots") or 1),
        used_slots=box_status.used_slots(box),
        disk_free_mib=int(box.get("disk_free_mib") or 0),
        disk_mib=int(box.get("disk_mib") or 0),
        home=box.get("home", ""),
        lerobot=box.get("lerobot", ""),
        hf_home=box.get("hf_home", ""),
        cached=tuple(_list(box, "warm")[:MOST_CACHED]),
        note=" · ".join(filter(None, (box.get("note", ""), box_status.idle_text(box, now_ms / 1000)))),
        blocked=_blocked(box),
        drain_text=box.get("drain_text", "") if box.get("drain") else "",
        staging=box_staging.read(box),
        caches=tuple(CacheView(name=one["name"], mib=one["mib"]) for one in _list(box, "caches")),
    )


def cards(box: Announced, mine: Sequence[Record]) -> list[CardView]:
    """Return the cards of a box. `mine`: the jobs that it owns."""
    unpromised, holders, gauges = _list(box, "free_mib"), _list(box, "holders"), _list(box, "gauges")
    found = []
    for number, card in enumerate(_list(box, "gpus")):
        total = int(card.get("total_mib") or 0)
        # A box may announce any two numbers.
        measured = min(total, int(card.get("free_mib") or 0))
        free = min(measured, max(0, int(unpromised[number]))) if number < len(unpromised) else measured
        gauge: Mapping[str, Any] = gauges[number] if number < len(gauges) else {}
        uuid, held = str(card.get("uuid", "")), holders[number]["jobs"] if number < len(holders) else []
        found.append(
            CardView(
                box=box["name"],
                number=number,
                uuid=uuid,
                name=str(card["name"]),
                total_mib=total,
                used_mib=total - measured,
                promised_mib=measured - free,
                free_mib=free,
                utilisation=None if gauge.get("use") is None else gauge["use"] / 100,
                temperature=gauge.get("celsius"),
                simulated=bool(card.get("simulated")),
                jobs=tuple(dict.fromkeys([*held, *(job.id for job in mine if uuid and uuid in job.gpus)])),
            )
        )
    return found


def card_uuids(box: Announced) -> tuple[str, ...]:
    """Return the UUIDs of the cards of a box, in their order."""
    return tuple(str(card.get("uuid", "")) for card in _list(box, "gpus"))


def _blocked(box: Announced) -> Refusal | None:
    if not box.get("blocked"):
        return None
    try:
        return refusals.from_json(json.loads(box["blocked"]))
    except (ValueError, RecursionError):
        return refusals.from_json(box["blocked"])


def _list(box: Announced, field: str) -> list[Any]:
    """Return a field that is a JSON list; box_fields.py has checked its entries."""
    found = json.loads(box.get(field) or "null")
    return found if isinstance(found, list) else []
