"""What the page of one job shows, from its record, its curves and the end of its log. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from pi0q.jobs.curve import Point
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.ops.web.curves import Mark, chart
from pi0q.ops.web.words import TIMES, Words, clock, gib, number
from pi0q.queue import job_text
from pi0q.queue.reading.values import JobView, LinkKind

#: Lines of the history, and checkpoints, that the page shows at most.
HISTORY, CHECKPOINTS = 100, 30
#: Vertical marks in a chart at the most: more would be a wall.
MARKS = 120


@dataclass(frozen=True, kw_only=True)
class JobDetail:
    """All that is read of one job for its page."""

    view: JobView
    record: Record
    #: The end of its log.
    log: str
    #: Its curve, by step.
    points: Sequence[Point] = ()


@dataclass(frozen=True, kw_only=True)
class PageLink:
    """A link out of the page."""

    text: str
    url: str


@dataclass(frozen=True, kw_only=True)
class CheckpointLine:
    """One checkpoint in the list."""

    step: int
    tags: tuple[str, ...] = ()
    size: str = ""
    path: str = ""


def content(
    detail: JobDetail, _: Words, *, now_ms: int, actions: Sequence[tuple[str, str, bool]], said: str
) -> dict[str, Any]:
    """Return the values of job.html. `actions`: address, words and danger of each button; `said`: what an act did."""
    job, record = detail.view, detail.record
    charts, marks = _charts(detail, _)
    return {
        "job": job,
        "said": _(said) if said else "",
        "actions": [(act, _(text), danger) for act, text, danger in actions],
        "links": _links(job, _),
        "headline": _headline(job, _),
        "cure": _cure(job, _),
        "charts": charts,
        "marks": marks,
        "history": list(reversed(record.history))[:HISTORY],
        "older": max(0, len(record.history) - HISTORY),
        "facts": _facts(record, _, now_ms),
        "checkpoints": _checkpoints(record, _),
        "log": detail.log,
        "log_size": f"{max(1, len(detail.log.encode()) // 1024)} KiB",
    }


def safe_url(url: object) -> str:
    """Return an address that a page may link to: http or https with a host and without a login; "" for any other."""
    text = str(url or "")
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return ""
    return text if whole and text.isprintable() and len(text) <= 2000 and not {*text} & {*' "<>\\'} else ""


def _links(job: JobView, _: Words) -> list[PageLink]:
    texts = {LinkKind.WANDB: "WandB", LinkKind.SWANLAB: "SwanLab", LinkKind.HUB: _("Policy on the Hub")}
    found = [(texts[link.kind], safe_url(link.url)) for link in job.links]
    return [PageLink(text=text, url=url) for text, url in found if url]


def _headline(job: JobView, _: Words) -> list[tuple[str, str]]:
    found = []
    if job.step is not None:
        found.append((_("steps"), f"{job.step:,}" + (f" / {job.steps:,}" if job.steps else "")))
    if job.eta_seconds is not None:
        found.append((_("left"), _.span(job.eta_seconds)))
    if job.loss is not None:
        found.append((_("loss"), number(job.loss)))
    if job.step_seconds is not None:
        found.append((_("seconds each"), f"{job.step_seconds:.3g}"))
    if job.checkpoint:
        found.append((_("saved"), _("step {}").format(f"{job.checkpoint.step:,}")))
    return found


def _cure(job: JobView, _: Words) -> str:
    if job.wait:
        return _.wait(job.wait)
    if job.reason and job.state is not State.SUCCEEDED and job.state not in OWNED:
        return "\n".join(filter(None, [f"{job.detail} ({job.reason.value})".strip(), job.next_step]))
    return ""


def _charts(detail: JobDetail, _: Words) -> tuple[list[tuple[str, Markup]], list[str]]:
    """Return title and drawing of each curve that has points, and the kinds of marks in them."""
    record = detail.record
    steps = {"checkpoint": [*record.known_checkpoints], "restart": interruptions(record)}
    marks = [
        Mark(step=step, kind=kind, text=f"{_(kind)}, {_('step {}').format(f'{step:,}')}")
        for kind, found in steps.items()
        for step in found[-MARKS:]
    ]
    series = {
        _("loss"): [(point.step, point.loss) for point in detail.points],
        _("learning rate"): [(point.step, point.lr) for point in detail.points],
        _("seconds a step"): [(point.step, point.seconds) for point in detail.points],
    }
    lost = record.loss is not None and not math.isfinite(record.loss) and record.step is not None
    if lost and detail.points:
        # A curve has no loss where it was no number.
        series[_("loss")].append((record.step or 0, math.nan))
    found = []
    for title, values in series.items():
        known = [(float(step), value) for step, value in values if value is not None]
        drawn = chart(known, marks, label=title, from_zero=title == _("seconds a step"))
        if drawn:
            found.append((title, drawn))
    kinds = [kind for kind in steps if steps[kind]] + (["lost"] if lost else [])
    return found, kinds if found else []


def interruptions(record: Record) -> list[int]:
    """Return the steps at which a run was interrupted: another claim went on from the checkpoint before."""
    return [
        event.step
        for before, event in pairwise(record.history)
        if before.state in OWNED and event.state not in OWNED | ENDED and event.step
    ]


def _facts(record: Record, _: Words, now_ms: int) -> list[tuple[str, str]]:
    train = record.spec.get("train")
    chosen: Mapping[str, Any] = train if isinstance(train, Mapping) else {}
    needs, by = record.needs, record.submitter
    cards = f"{needs.get('gpus', 0)} {TIMES} {gib(needs.get('vram_mib', 0))}, " if needs.get("gpus") else ""
    rows = [
        (_("policy"), str(chosen.get("policy.type") or chosen.get("policy.path") or "")),
        (_("dataset"), str(chosen.get("dataset.repo_id") or "")),
        (_("batch size"), str(chosen.get("batch_size") or "")),
        (_("by"), by),
        (_("priority"), _(record.priority)),
        (_("needs"), f"{cards}{_('data disk')} {gib(needs.get('disk_mib', 0))}"),
        (_("VRAM peak"), gib(record.vram_peak_mib) if record.vram_peak_mib else ""),
        (_("box"), record.box or ""),
        (_("claim"), _("{}, attempt {}").format(record.epoch, record.attempt) if record.epoch else ""),
        (_("trained"), _.span(job_text.trained_ms(record, now_ms) / 1000) if record.started_ms else ""),
        (_("submitted"), clock(record.created_ms)),
        (_("started"), clock(record.started_ms)),
        (_("ended"), clock(record.ended_ms) if record.state in ENDED else ""),
    ]
    return [(label, value) for label, value in rows if value]


def _checkpoints(record: Record, _: Words) -> list[CheckpointLine]:
    """Return the verified checkpoints, the newest first."""
    newest, copied, found = record.checkpoint, record.copied, []
    for step in sorted(record.known_checkpoints, reverse=True)[:CHECKPOINTS]:
        tags = [
            _("newest") if newest and newest.step == step else "",
            _("copied") if (copied and copied.step == step) or str(step) in record.manifests else "",
            _("pinned") if step in record.protected_steps else "",
        ]
        lies = newest if newest and newest.step == step else copied if copied and copied.step == step else None
        found.append(
            CheckpointLine(
                step=step,
                tags=tuple(tag for tag in tags if tag),
                size=f"{lies.bytes / 1e9:.2f} GB" if lies else "",
                path=lies.path if lies else "",
            )
        )
    return found
