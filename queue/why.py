"""Why a job is where it is, what it needs, what each box has of that, and what would help. Pure: all is given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pi0q.jobs import aftermath, disk, flags, needs
from pi0q.jobs.disk import CACHE, HUB, RUN, gib
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import render

#: Where the next lack begins in what a box tells of a job.
_LACK = re.compile(r"; (?=(?:GPUs|VRAM|disk|inodes|system disk|trainer|cuda|dataset|its checkpoint)\b)")
#: Jobs before this one that are named.
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Place:
    """One box, as far as it concerns the job."""

    box: str
    #: ready, busy, draining, drained, unreachable or stopped.
    status: str
    #: Why it does not take the job; empty where nothing is known to keep it from doing so.
    lacks: tuple[str, ...]
    #: MiB free on its data disk.
    free_mib: int
    #: What of the job is there already, in words.
    has: tuple[str, ...]
    #: What must still come onto its data disk, MiB; None where it has not reckoned that.
    disk_mib: int | None
    #: Where things would go: base weights and dataset, the compiled kernels, the run itself.
    goes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Why:
    """The whole answer."""

    id: str
    name: str
    state: str
    #: Why it is in that state, in a sentence or two.
    why: tuple[str, ...]
    #: GPUs, MiB of VRAM on each, MiB of disk.
    needs: Mapping[str, int]
    #: Where the first two numbers are from.
    reckoned: tuple[str, ...]
    #: The disk thing by thing, as `Plan.to_json`; None where the job's spec can't be read.
    disk: Mapping[str, Any] | None
    places: tuple[Place, ...]
    #: Names and ids of the jobs before it in the queue.
    before: tuple[str, ...]
    #: What would help, one each.
    cures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


def explain(
    job: Record, boxes: Iterable[Mapping[str, str]], waiting: Sequence[Record], *, waits: Sequence[str], now_ms: int
) -> Why:
    """All of it, from what lies on the server.

    `boxes` as `Store.boxes` has them, each with its `status` as `pi0q boxes` shows it; `waits` as `Store.waits`.
    """
    try:
        spec: Spec | None = Spec.from_json(job.spec)
    except (Pi0qError, KeyError, TypeError, ValueError):
        spec = None
    sizes = disk.told(job.preflight)
    estimate = needs.estimate(spec, sizes=sizes) if spec else None
    known = job.checkpoint.bytes if job.checkpoint else None
    plan = disk.plan(spec, sizes=sizes, saved_bytes=known) if spec else None
    here = [box for box in boxes if box["status"] not in ("unreachable", "stopped") or box["name"] == job.box]
    places = tuple(_place(box, job) for box in here) if job.state is State.QUEUED else ()
    ids = [one.id for one in waiting]
    ahead = waiting[: ids.index(job.id)] if job.id in ids else []
    return Why(
        id=job.id,
        name=job.name,
        state=str(job.state),
        why=tuple(_why(job, waits, now_ms, known_boxes=bool(places))),
        needs={name: job.needs.get(name, 0) for name in ("gpus", "vram_mib", "disk_mib")},
        reckoned=tuple(estimate.why[:2]) if estimate else (),
        disk=plan.to_json() if plan else None,
        places=places,
        before=tuple(f"{one.name} {one.id} ({one.priority})" for one in ahead),
        cures=(
            *_cures(job, spec, places, here),
            *([f"`pi0q retry {job.id}` tries now what is left"] if aftermath.left(job) else []),
        ),
    )


def _why(job: Record, waits: Sequence[str], now_ms: int, *, known_boxes: bool) -> list[str]:
    since = render.span(max(0.0, now_ms - (job.queued_ms or job.created_ms)) / 1000)
    said = [f"{job.reason}: {' '.join(job.detail.split())}"] if job.reason and job.detail else []
    if job.state is State.QUEUED:
        first = f"It has waited for {since}" + (" since it last ran" if job.epoch else "")
        return [*said, *([f"{first}: no box takes it now."] if known_boxes else [f"{first}.", *waits])]
    if job.state in OWNED:
        parts = [job.phase, render.progress(job)]
        return [f"It is {job.state} on {job.box} (epoch {job.epoch}): {' · '.join(filter(None, parts)) or 'begins'}"]
    return [*(said or list(waits) or [f"It {job.state} {render.when(job, now_ms)}."]), *aftermath.left(job)]


def _place(box: Mapping[str, str], job: Record) -> Place:
    told = _json(box, "plans").get(job.id)
    items = [one for one in (told or {}).get("items", ()) if one.get("here_mib")]
    home, hub = box.get("home", ""), box.get("hf_home", "")
    where = {HUB: f"{hub}/hub", CACHE: f"{home}/cache", RUN: f"{home}/runs/{job.id}"}
    kinds = dict.fromkeys(str(one["place"]) for one in (told or {}).get("items", ()))
    return Place(
        box=str(box["name"]),
        status=_status(box),
        lacks=_lacks(box, job),
        free_mib=int(box.get("disk_free_mib") or 0),
        has=tuple(
            f"{one['what'] if one['kind'] != 'checkpoints' else 'checkpoints'} {gib(one['here_mib'])}" for one in items
        ),
        disk_mib=int(told["lacks_mib"]) if told else None,
        goes=tuple(where[kind] for kind in kinds if kind in where),
    )


def _status(box: Mapping[str, str]) -> str:
    full = int(box.get("running") or 0) >= int(box.get("slots") or 1)
    return "busy" if box["status"] == "ready" and full else str(box["status"])


def _lacks(box: Mapping[str, str], job: Record) -> tuple[str, ...]:
    if box["status"] in ("unreachable", "stopped"):
        return (f"it was last heard of {render.span(float(box['seen_seconds']))} ago",)
    if box.get("drain"):
        return (
            f"takes no new jobs ({box.get('drain_text') or 'drained'}); `pi0q drain {box['name']} --undo` ends that",
        )
    if _status(box) == "busy":
        return (f"{box.get('running')} of {box.get('slots')} slots are in use", *_too_small(box, job))
    told = _json(box, "refusals").get(job.id)
    return tuple(_LACK.split(str(told))) if told else ("has not looked at it yet",)


def _too_small(box: Mapping[str, str], job: Record) -> list[str]:
    """What would keep the job from this box even if it were idle."""
    cards = [int(card.get("total_mib") or 0) for card in json.loads(box.get("gpus") or "[]")]
    wanted, vram = job.needs.get("gpus", 0), job.needs.get("vram_mib", 0)
    if sum(total >= vram for total in cards) >= wanted:
        return []
    has = f"the largest of its {len(cards)} has {gib(max(cards))}" if cards else "it has none"
    return [f"and it is too small: {wanted} GPU{'s' * (wanted > 1)} with {gib(vram)} are needed, {has}"]


def _cures(job: Record, spec: Spec | None, places: Sequence[Place], boxes: Sequence[Mapping[str, str]]) -> list[str]:
    if job.state in ENDED or job.state is State.WAITING:
        return [job.advice] if job.advice else []
    if job.state is not State.QUEUED:
        return []
    found = [] if places else ["make a machine with a GPU a box: `pi0q worker` on it"]
    lacking = [(place, place.disk_mib - place.free_mib) for place in places if place.disk_mib is not None]
    for place, mib in lacking:
        if mib > 0:
            found.append(
                f"{gib(mib)} more free on the data disk of {place.box}: `pi0q cache ls` there shows what fills it"
            )
    if spec and any(mib > 0 for _, mib in lacking):
        found += _smaller(spec)
    best = max((_most_free(box) for box in boxes if not box.get("drain")), default=0)
    if spec and job.needs.get("gpus") and best and best < job.needs.get("vram_mib", 0):
        if spec.resources.vram_mib is not None:
            return [
                *found,
                f"resources.vram in its file states {gib(spec.resources.vram_mib)}: left out, it is reckoned",
            ]
        found += [
            f"`{change}` in its file: then {gib(best)} on the GPU are enough" for change in needs.lighter(spec, best)
        ]
    return found


def _smaller(spec: Spec) -> list[str]:
    """Changes to the file that take less of a disk."""
    plan, found = disk.plan(spec), []
    if plan.stated_mib is not None and plan.stated_mib > plan.reckoned_mib:
        found.append(f"resources.disk in its file states {gib(plan.stated_mib)}: left out, it is reckoned")
    if spec.checkpoints.keep > 1:
        less = (spec.checkpoints.keep - 1) * plan.checkpoint_mib
        found.append(f"`checkpoints: {{keep: 1}}` in its file: {gib(less)} less")
    known = flags.misfit("policy.dtype", str(spec.train.get("policy.type")), flags.FLAGS["policy.dtype"].known) is None
    half = disk.plan(_with(spec, "policy.dtype", "bfloat16")).reckoned_mib
    if known and half < plan.reckoned_mib:
        found.append(f"`policy.dtype: bfloat16` in its file: {gib(plan.reckoned_mib - half)} less")
    return found


def _with(spec: Spec, name: str, value: str) -> Spec:
    return replace(spec, train={**spec.train, name: value})


def _most_free(box: Mapping[str, str]) -> int:
    cards = json.loads(box.get("gpus") or "[]")
    return max((int(card.get("free_mib") or 0) for card in cards), default=0)


def _json(box: Mapping[str, str], name: str) -> dict[str, Any]:
    found = json.loads(box.get(name) or "{}")
    return found if isinstance(found, dict) else {}
