"""Explain why a job is where it is: what it needs, what each box has of that, what would help. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pi0q.jobs import postrun
from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.estimates import disk, policy_sizes
from pi0q.jobs.estimates import job_needs as needs
from pi0q.jobs.estimates.disk import CACHE, HUB, RUN, gib
from pi0q.jobs.record import Record
from pi0q.jobs.schema import flags
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import capacity, job_text
from pi0q.queue.box_status import (
    NOT_EVALUATED,
    Announced,
    card_shortage,
    is_full,
    lasting_refusals,
    reasons,
    used_slots,
)
from pi0q.queue.place_in_line import PlaceInLine, sentences
from pi0q.queue.refusals import CardsTaken, NotChosen, SlotsInUse

#: Jobs before this one that are named.
NAMED = 3
#: Status of boxes that take no job until their workers are back.
GONE = ("unreachable", "stopped")


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
    #: The disk thing by thing, as `DiskPlan.to_json`; None where the job's spec can't be read.
    disk: Mapping[str, Any] | None
    places: tuple[Place, ...]
    #: Names and ids of the jobs whose turn is before.
    before: tuple[str, ...]
    #: Its place in line, 1 for the next; None for a job that does not wait, or far behind.
    place: int | None
    #: When it may start, by the ETAs of running jobs; None where nobody can tell.
    starts_in_seconds: float | None
    #: The box and the numbers of its cards that are kept for it.
    kept_on: str
    kept_cards: tuple[int, ...]
    #: What would help, one each.
    cures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


def explain(
    job: Record, boxes: Iterable[Announced], line: PlaceInLine | None, *, waits: Sequence[str], now_ms: int
) -> Why:
    """Return all of it, from what lies on the server. `line`: None for a job that is not among those that are next.

    `boxes` as `Store.boxes` has them, each with its `status` as `pi0q boxes` shows it; `waits` as `box_status.waits`.
    """
    spec = _spec(job)
    sizes = disk.told(job.preflight)
    saved = disk.SavedSoFar(bytes_each=job.checkpoint.bytes if job.checkpoint else None)
    relevant = [box for box in boxes if box["status"] not in GONE or box["name"] == job.box]
    places = tuple(_place(box, job) for box in relevant) if job.state is State.QUEUED else ()
    return Why(
        id=job.id,
        name=job.name,
        state=str(job.state),
        why=(*_why(job, waits, now_ms, known_boxes=bool(places)), *(sentences(line) if line and places else ())),
        needs={name: job.needs.get(name, 0) for name in ("gpus", "vram_mib", "disk_mib")},
        reckoned=_reckoned(job, spec, sizes) if spec else (),
        disk=disk.plan(policy_sizes.informed(spec, job.base), sizes=sizes, saved=saved).to_json() if spec else None,
        places=places,
        before=tuple(f"{one.name} {one.id} ({one.priority})" for one in (line.ahead if line else ())),
        place=len(line.ahead) + 1 if line else None,
        starts_in_seconds=line.start_seconds if line else None,
        kept_on=line.kept_on if line else "",
        kept_cards=line.kept_cards if line else (),
        cures=(*_cures(job, spec, places, relevant), *_retry_cure(job)),
    )


def _reckoned(job: Record, spec: Spec, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return where the numbers of GPUs and VRAM are from: stated, measured or estimated."""
    facts = DatasetInfo.of_any(job.preflight)
    images = facts.images if facts else None
    return needs.estimate(spec, images=images, sizes=sizes, peak=job.measured, base=job.base).why[:2]


def _spec(job: Record) -> Spec | None:
    try:
        return Spec.from_json(job.spec)
    except (Pi0qError, KeyError, TypeError, ValueError):
        return None


def _why(job: Record, waits: Sequence[str], now_ms: int, *, known_boxes: bool) -> list[str]:
    last = [f"{' '.join(job.detail.split())} ({job.reason})"] if job.reason and job.detail else []
    if job.state is State.QUEUED:
        since = job_text.span(max(0.0, now_ms - (job.queued_ms or job.created_ms)) / 1000)
        first = f"It has waited for {since}" + (" since it last ran" if job.epoch else "")
        return [*last, *([f"{first}: no box takes it now."] if known_boxes else [f"{first}.", *waits])]
    if job.state in OWNED:
        doing = " · ".join(filter(None, [job.phase, job_text.progress(job)])) or "begins"
        return [f"It is {job.state} on {job.box} (claim {job.epoch}): {doing}"]
    return [*(last or list(waits) or [f"It {job.state} {job_text.when(job, now_ms)}."]), *postrun.left(job)]


# -- each box -----------------------------------------------------------------------------------------


def _place(box: Announced, job: Record) -> Place:
    plan = _plan(box, job)
    items = plan.get("items", ())
    return Place(
        box=str(box["name"]),
        status=_status(box),
        lacks=_lacks(box, job),
        free_mib=int(box.get("disk_free_mib") or 0),
        has=tuple(f"{_item_name(item)} {gib(item['here_mib'])}" for item in items if item.get("here_mib")),
        disk_mib=int(plan["lacks_mib"]) if plan else None,
        goes=tuple(_destinations(box, job, items)),
    )


def _plan(box: Announced, job: Record) -> Mapping[str, Any]:
    """Return the box's disk plan for the job, as `DiskPlan.to_json`; empty where it announced none."""
    plans = json.loads(box.get("plans") or "{}")
    return (plans.get(job.id) or {}) if isinstance(plans, dict) else {}


def _item_name(item: Mapping[str, Any]) -> str:
    return "checkpoints" if item["kind"] == "checkpoints" else str(item["what"])


def _destinations(box: Announced, job: Record, items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    home, hub = box.get("home", ""), box.get("hf_home", "")
    paths = {HUB: f"{hub}/hub", CACHE: f"{home}/cache", RUN: f"{home}/runs/{job.id}"}
    for kind in dict.fromkeys(str(item["place"]) for item in items):
        if kind in paths:
            yield paths[kind]


def _status(box: Announced) -> str:
    return "busy" if box["status"] == "ready" and is_full(box) else str(box["status"])


def _lacks(box: Announced, job: Record) -> tuple[str, ...]:
    if box["status"] in GONE:
        return (f"last heartbeat {job_text.span(float(box['seen_seconds']))} ago",)
    if box.get("drain"):
        return (
            f"takes no new jobs ({box.get('drain_text') or 'drained'}); `pi0q drain {box['name']} --undo` ends that",
        )
    lack = card_shortage(box, job)
    if isinstance(lack, NotChosen):
        return (str(lack),)
    if _status(box) == "busy" and not capacity.shares(job):
        if isinstance(lack, CardsTaken):
            return (str(lack),)
        busy = SlotsInUse(used=used_slots(box), slots=int(box.get("slots") or 1))
        return (str(busy), *map(str, lasting_refusals(box, job)), *_too_small(box, job))
    return tuple(map(str, reasons(box, job))) or (NOT_EVALUATED,)


def _too_small(box: Announced, job: Record) -> list[str]:
    """What would keep the job from this box even if it were idle."""
    cards = [int(card.get("total_mib") or 0) for card in json.loads(box.get("gpus") or "[]")]
    wanted, vram = job.needs.get("gpus", 0), job.needs.get("vram_mib", 0)
    if sum(total >= vram for total in cards) >= wanted:
        return []
    has = f"the largest of its {len(cards)} has {gib(max(cards))}" if cards else "it has none"
    return [f"and it is too small: {wanted} GPU{'s' * (wanted > 1)} with {gib(vram)} are needed, {has}"]


# -- what would help: one function a cure -----------------------------------------------------------------


def _cures(job: Record, spec: Spec | None, places: Sequence[Place], boxes: Sequence[Announced]) -> list[str]:
    if job.state in ENDED or job.state is State.WAITING:
        return [job.next_step] if job.next_step else []
    if job.state is not State.QUEUED:
        return []
    lacking = list(_disk_cures(places))
    return [
        *_box_cure(places),
        *lacking,
        *(_smaller(spec) if spec and lacking else []),
        *(_vram_cures(job, spec, boxes) if spec else []),
    ]


def _retry_cure(job: Record) -> list[str]:
    return [f"`pi0q retry {job.id}` tries now what is left"] if postrun.left(job) else []


def _box_cure(places: Sequence[Place]) -> list[str]:
    return [] if places else ["make a machine with a GPU a box: `pi0q worker` on it"]


def _disk_cures(places: Sequence[Place]) -> Iterator[str]:
    for place in places:
        if place.disk_mib is not None and (mib := place.disk_mib - place.free_mib) > 0:
            yield f"{gib(mib)} more free on the data disk of {place.box}: `pi0q cache ls` there shows what fills it"


def _vram_cures(job: Record, spec: Spec, boxes: Sequence[Announced]) -> list[str]:
    """Return changes to the file that let the job fit the GPU with the most free memory."""
    best = max((_most_free(box) for box in boxes if not box.get("drain")), default=0)
    if not job.needs.get("gpus") or not best or best >= job.needs.get("vram_mib", 0):
        return []
    if spec.resources.vram_mib is not None:
        return [f"resources.vram in its file states {gib(spec.resources.vram_mib)}: left out, it is reckoned"]
    return [f"`{change}` in its file: then {gib(best)} on the GPU are enough" for change in needs.lighter(spec, best)]


def _smaller(spec: Spec) -> list[str]:
    """Changes to the file that take less of a disk."""
    plan, changes = disk.plan(spec), []
    if plan.stated_mib is not None and plan.stated_mib > plan.reckoned_mib:
        changes.append(f"resources.disk in its file states {gib(plan.stated_mib)}: left out, it is reckoned")
    if spec.checkpoints.keep > 1:
        less = (spec.checkpoints.keep - 1) * plan.checkpoint_mib
        changes.append(f"`checkpoints: {{keep: 1}}` in its file: {gib(less)} less")
    known = flags.misfit("policy.dtype", flags.chosen(spec.train, "policy.dtype")) is None
    half = disk.plan(_with(spec, "policy.dtype", "bfloat16")).reckoned_mib
    if known and half < plan.reckoned_mib:
        changes.append(f"`policy.dtype: bfloat16` in its file: {gib(plan.reckoned_mib - half)} less")
    return changes


def _with(spec: Spec, name: str, value: str) -> Spec:
    return replace(spec, train={**spec.train, name: value})


def _most_free(box: Announced) -> int:
    cards = json.loads(box.get("gpus") or "[]")
    return max((int(card.get("free_mib") or 0) for card in cards), default=0)
