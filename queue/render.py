"""How jobs look on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pi0q.jobs import aftermath, saving
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.queue.records import Page

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of a pipe or file, where no terminal sets the width.
PIPE_WIDTH = 200
COLUMNS = ("ID", "NAME", "STATE", "PROGRESS", "LOSS", "S/STEP", "TIME", "BOX", "SAVED", "NOTE")
#: Columns that give way where there is little room.
ELASTIC = ("NAME", "BOX", "NOTE")
#: Columns that are left out on a terminal narrower than this.
ROOM = {"S/STEP": 130, "LOSS": 115, "SAVED": 100, "BOX": 90}
COLOURS = {
    State.WAITING: "yellow",
    State.QUEUED: "yellow",
    State.CLAIMED: "cyan",
    State.PREPARING: "cyan",
    State.RUNNING: "green",
    State.SUCCEEDED: "bold green",
    State.FAILED: "bold red",
    State.CANCELLED: "magenta",
}


def console() -> Console:
    """Standard output; wide and without colour where it is no terminal. `[…]` and `:…:` in a name mean themselves."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_json(value: Any) -> None:
    """One JSON value, as `--json` promises."""
    print(json_text(value, indent=2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON that standard output can hold, whatever its encoding."""
    whole = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return json.dumps(value, indent=indent, ensure_ascii=not whole, default=str)


def span(seconds: float | None) -> str:
    """A duration in its two largest units: `1d 3h`, `12m 5s`, `0.7s`."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s"
    units = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]
    parts, rest = [], int(seconds)
    for unit, size in units:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def mib(amount: int | float) -> str:
    """An amount of memory or disk."""
    return f"{amount / 1024:.0f} GiB" if amount >= 10240 else f"{amount / 1024:.1f} GiB"


def progress(job: Record) -> str:
    """`1200/50000 2%`, or what is known of it."""
    if job.step is None or not job.steps:
        return f"0/{job.steps}" if job.steps else ""
    return f"{job.step}/{job.steps} {100 * job.step // job.steps}%"


def note(job: Record) -> str:
    """The one thing a person would ask next about this job."""
    if job.state is State.QUEUED and not job.reason:
        return wanted(job.needs)
    if job.state in OWNED:
        return " · ".join(filter(None, [_wished(job) or job.phase, *wandb(job)]))
    # A trainer's message may have many lines.
    reason = f"{job.reason}: {' '.join(job.detail.split())}" if job.reason and job.state is not State.SUCCEEDED else ""
    return " · ".join(
        filter(None, [reason, *aftermath.push_left(job), *aftermath.copy_left(job), *([] if reason else wandb(job))])
    )


def wandb(job: Record) -> list[str]:
    """Where its WandB run is, and what of it is kept on boxes: a link, `WandB offline, 3.1 MB to sync`."""
    kept = list(aftermath.wandb_left(job))
    link = [job.wandb_url] if job.wandb_url else []
    return link + kept or (["WandB offline"] if job.wandb_dir else [])


def pushed(job: Record) -> str:
    """What became of the push of its policy."""
    told = job.push
    if told.get("state") == "done":
        return f"{told.get('url') or told.get('repo')}  {told.get('detail')}"
    tries = f", tried {told['tries']} times" if int(told.get("tries") or 0) > 1 else ""
    left = "".join(aftermath.push_left(job)).removeprefix("push ")
    return f"{told.get('repo')}  {left}{tries}\n`pi0q retry {job.id}` tries it now" if left else ""


def _wished(job: Record) -> str:
    """What its user wants of a job that someone owns."""
    if job.wish == "cancel":
        return "cancelling"
    return "saving, to be held" if job.held and job.state in OWNED else ""


def wanted(needs: Any) -> str:
    """`needs 1 GPU with 90 GiB, disk 120 GiB`."""
    gpus = needs.get("gpus", 0)
    vram = f"{gpus} GPU{'s' * (gpus > 1)} with {mib(needs.get('vram_mib', 0))}, " if gpus else "no GPU, "
    return f"needs {vram}disk {mib(needs.get('disk_mib', 0))}"


def kept(job: Record) -> str:
    """The step of the newest checkpoint and, where copies are made, that of its copy."""
    if not job.checkpoint:
        return ""
    copy = f" (copy {job.copied.step})" if job.copied else " (no copy)" if job.copy_detail else ""
    return f"{job.checkpoint.step}{copy}"


def copied(job: Record) -> str:
    """Where its newest copy lies, and why no newer one is there."""
    copy = job.copied
    lies = f"step {copy.step}, {copy.bytes / 1e6:.0f} MB, verified\n{copy.path}" if copy else ""
    return "\n".join(filter(None, [lies, "".join(aftermath.copy_left(job)) or job.copy_detail]))


def when(job: Record, now_ms: int) -> str:
    """How much longer it takes, or how long ago it ended or came."""
    if job.state is State.RUNNING and job.eta_seconds is not None:
        return f"{span(job.eta_seconds)} left"
    return f"{span((now_ms - (job.ended_ms or job.created_ms)) / 1000)} ago"


def cells(job: Record, now_ms: int) -> tuple[Text, ...]:
    """What stands in each column of a job's line."""
    found = (
        job.id,
        job.name,
        Text(job.state.value, COLOURS[job.state]),
        progress(job),
        "" if job.loss is None else f"{job.loss:.3f}",
        "" if job.step_seconds is None else f"{job.step_seconds:.2f}",
        when(job, now_ms),
        job.box or "",
        kept(job),
        note(job),
    )
    return tuple(cell if isinstance(cell, Text) else Text(cell.replace("\n", " ")) for cell in found)


def table(page: Page, *, width: int = PIPE_WIDTH) -> RenderableType:
    """One line a job; `width` is that of the terminal, in columns."""
    shown = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    # A column is one cell of many lines: with a cell a job rich would need a sixth of the time of all `pi0q ls`.
    lines, row = Text("\n", no_wrap=True, overflow="ellipsis"), []
    for column, jobs in zip(COLUMNS, zip(*(cells(job, page.now_ms) for job in page.jobs), strict=True), strict=False):
        if width >= ROOM.get(column, 0):
            # Columns that rich may wrap are the first that it makes narrower; their text is cut all the same.
            elastic = column in ELASTIC
            shown.add_column(column, no_wrap=not elastic, overflow="ellipsis", min_width=5 if elastic else None)
            row.append(lines.join(jobs))
    shown.add_row(*row)
    hidden = page.live + page.ended - len(page.jobs)
    if not page.jobs:
        return Text("No jobs yet. `pi0q submit FILE` puts one into the queue.")
    return Group(shown, Text(f"… and {hidden} more: `pi0q ls --all`", "dim")) if hidden > 0 else shown


def details(job: Record, now_ms: int, tail: Sequence[str] = (), waits: Sequence[str] = ()) -> RenderableType:
    """All that is known of one job."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in [*rows(job, now_ms), ("waits for", "\n".join(waits))]:
        if value:
            grid.add_row(label, value)
    parts: list[RenderableType] = [grid]
    if tail:
        parts += [
            Text("\nlog", "dim"),
            *(Text("  " + line, overflow="ellipsis", no_wrap=True) for line in tail),
        ]
    return Group(*parts)


def rows(job: Record, now_ms: int) -> list[tuple[str, RenderableType]]:
    """Label and value of everything that a person would want to know of a job."""
    saved = job.checkpoint
    speed = f"{job.step_seconds:.3f} s a step" if job.step_seconds else ""
    return [
        ("job", Text.assemble((job.name, "bold"), f"  {job.id}")),
        ("state", Text.assemble((job.state.value, COLOURS[job.state]), f"  {job.phase}" if job.phase else "",
                                f"  {wished}" if (wished := _wished(job)) else "")),
        ("reason", f"{job.reason}: {job.detail}" if job.reason else ""),
        ("what to do", job.advice),
        ("seen", "\n".join(seen(job))),
        ("progress", bar(job)),
        ("loss", "" if job.loss is None else f"{job.loss:.4f}" + (f"   lr {job.lr:.2e}" if job.lr else "")),
        ("speed", speed + (f"   {when(job, now_ms)}" if job.eta_seconds and job.state is State.RUNNING else "")),
        ("box", f"{job.box}  epoch {job.epoch}, attempt {job.attempt}" if job.box else ""),
        ("needs", wanted(job.needs).removeprefix("needs ")),
        ("preflight", before(job)),
        ("rehearsal", rehearsed(job)),
        ("VRAM peak", mib(job.vram_peak_mib) if job.vram_peak_mib else ""),
        ("checkpoint", f"step {saved.step}, {saved.bytes / 1e6:.0f} MB, verified\n{saved.path}" if saved else ""),
        ("copy", copied(job)),
        ("saves", "\n".join(saving.shown(job))),
        ("WandB", "\n".join([*wandb(job), job.wandb_dir if job.wandb_dir and not job.wandb_url else ""]).strip()),
        ("push", pushed(job)),
        ("goes on from", job.continues),
        ("went on as", job.continued),
        ("submitted", f"{span((now_ms - job.created_ms) / 1000)} ago by {job.submitter}, priority {job.priority}"),
    ]  # fmt: skip


def seen(job: Record) -> list[str]:
    """What was seen of its trainer's end, if that is why it is where it is."""
    if not job.reason or job.evidence.get("reason") != job.reason.value or job.state in (*OWNED, State.SUCCEEDED):
        return []
    stacks = job.evidence.get("stacks")
    return [*map(str, job.evidence.get("seen") or ()), *([f"stacks of all its threads: {stacks}"] if stacks else [])]


def before(job: Record) -> str:
    """What was found out before a claim, box by box."""
    lines = []
    for box, found in sorted(job.preflight.items()):
        good = f"good on {box} ({span(float(found.get('seconds') or 0))})"
        said = good if found.get("ok") else f"refused on {box}: {found.get('why')}"
        lines.append("; ".join([said, *map(str, found.get("notes") or ())]))
    return "\n".join(lines)


def rehearsed(job: Record) -> str:
    """What came of the rehearsal before the run."""
    told = job.rehearsal
    if not told:
        return ""
    how = "passed" if told.get("ok") else "not passed"
    return f"{how} on {told.get('box')} in {span(told.get('seconds'))}: {told.get('detail')}"


def bar(job: Record, width: int = 30) -> RenderableType:
    """A progress bar that never runs backwards on a resume: it shows the training's own step."""
    if not job.steps:
        return ""
    share = min(1.0, (job.step or 0) / job.steps)
    full = round(width * share)
    return Text.assemble(
        ("━" * full, "green"), ("━" * (width - full), "dim"), f" {job.step or 0}/{job.steps}  {share:.0%}"
    )


def history(job: Record) -> RenderableType:
    """What happened, oldest first, in seconds since the submit."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("AFTER", "STATE", "EPOCH", "BOX", "WHAT"):
        shown.add_column(column, no_wrap=column != "WHAT", overflow="fold")
    for event in job.history:
        text = f"{event.reason}: {event.text}" if event.reason else event.text
        after = (event.at_ms - job.created_ms) / 1000
        shown.add_row(
            span(after),
            Text(event.state.value, COLOURS[event.state]),
            str(event.epoch),
            event.box or "",
            text,
        )
    return shown
