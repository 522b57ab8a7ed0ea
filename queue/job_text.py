"""What is said of a job, in words and without layout: for commands that print lines, for Flower, for `--json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pi0q.jobs import best_checkpoint, postrun, sweep
from pi0q.jobs.errors import BadRecord
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import plain_table

if TYPE_CHECKING:
    from pi0q.queue.job_list import Counts, Page

#: Columns of `pi0q ls`, see `cells`.
COLUMNS = ("ID", "NAME", "STATE", "PROGRESS", "LOSS", "S/STEP", "TIME", "BOX", "SAVED", "NOTE")
NO_JOBS = "No jobs yet. `pi0q submit FILE` puts one into the queue."


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
    """`1200/50000 2%`, or what is known of it; of a sweep its trials that have ended."""
    if job.trials:
        return f"{job.trials.done}/{job.trials.total} trials"
    if job.step is None or not job.steps:
        return f"0/{job.steps}" if job.steps else ""
    return f"{job.step}/{job.steps} {100 * job.step // job.steps}%"


def note(job: Record, waits: str = "") -> str:
    """The one thing a person would ask next about this job; `waits`: what a queued one waits for, in short."""
    if job.state is State.QUEUED and not job.reason:
        return waits or f"needs {wanted(job.needs)}"
    if job.state in OWNED:
        return " · ".join(filter(None, [wished(job) or job.phase, *trackers(job)]))
    if job.trials:
        return waits or job.trials.note()
    if job.state is State.WAITING and not job.held:
        return waits_for(job)
    # A trainer's message may have many lines.
    reason = " ".join(job.detail.split()) or str(job.reason) if job.reason and job.state is not State.SUCCEEDED else ""
    return " · ".join(
        filter(
            None, [waits, reason, *postrun.push_left(job), *postrun.copy_left(job), *([] if reason else trackers(job))]
        )
    )


def wandb(job: Record) -> list[str]:
    """Where its WandB run is, and what of it is kept on boxes: a link, `WandB offline, 3.1 MB to sync`."""
    kept = list(postrun.wandb_left(job))
    link = [job.wandb_url] if job.wandb_url else []
    return link + kept or (["WandB offline"] if job.wandb_dir else [])


def swanlab(job: Record) -> list[str]:
    """The same of its SwanLab run."""
    kept = list(postrun.swanlab_left(job))
    link = [job.swanlab_url] if job.swanlab_url else []
    chosen = job.spec.get("tracking")
    if job.started_ms is None or not isinstance(chosen, list) or "swanlab" not in chosen:
        return link + kept
    settings = job.spec.get("swanlab")
    offline = isinstance(settings, dict) and settings.get("mode") == "offline"
    return link + kept or ["SwanLab offline" if offline else "SwanLab gets it within minutes"]


def trackers(job: Record) -> list[str]:
    """Where its runs at experiment trackers are."""
    return [*wandb(job), *swanlab(job)]


def pushed(job: Record) -> str:
    """What became of the push of its policy."""
    told = job.push
    if told.get("state") == "done":
        return f"{told.get('url') or told.get('repo')}  {told.get('detail')}"
    tries = f", tried {told['tries']} times" if int(told.get("tries") or 0) > 1 else ""
    status = postrun.push_status(job)
    return f"{told.get('repo')}  {status}{tries}\n`pi0q retry {job.id}` tries it now" if status else ""


def wished(job: Record) -> str:
    """What its user wants of a job that someone owns."""
    if job.wish == "cancel":
        return "cancelling"
    return "saving, to be held" if job.held and job.state in OWNED else ""


def wanted(needs: Any) -> str:
    """Return `1 GPU with 90 GiB, disk 120 GiB`."""
    gpus = needs.get("gpus", 0)
    vram = f"{gpus} GPU{'s' * (gpus > 1)} with {mib(needs.get('vram_mib', 0))}, " if gpus else "no GPU, "
    return f"{vram}disk {mib(needs.get('disk_mib', 0))}"


def kept(job: Record) -> str:
    """The step of the newest checkpoint, that of its copy where copies are made, and that of the best one."""
    if not job.checkpoint:
        return ""
    copy = f" (copy {job.copied.step})" if job.copied else " (no copy)" if job.copy_detail else ""
    best = f", best {job.best.step}" if job.best and job.best.step != job.checkpoint.step else ""
    return f"{job.checkpoint.step}{copy}{best}"


def held_out(job: Record) -> str:
    """Its loss on held-out episodes, and the best one that is kept."""
    patience = job.spec.get("checkpoints", {}).get("patience") if job.state not in ENDED else None
    return best_checkpoint.words(job.best, job.eval_loss, patience)


def copied(job: Record) -> str:
    """Where its newest copy lies, and why no newer one is there."""
    copy = job.copied
    lies = f"step {copy.step}, {copy.bytes / 1e6:.0f} MB, verified\n{copy.path}" if copy else ""
    return "\n".join(filter(None, [lies, "".join(postrun.copy_left(job)) or job.copy_detail]))


def started_from(job: Record) -> str:
    """The checkpoint of another job that it starts from."""
    start = job.starts_from
    return f"step {start.step} of job {start.job}" if start else ""


def starts_after(job: Record) -> str:
    """What it waits for before it enters the queue: jobs, a time."""
    jobs = [f"job {name} ({'success' if how == 'ok' else 'any end'})" for name, how in sorted(job.awaits.items())]
    return "\n".join([*jobs, *([clock(job.start_ms)] if job.start_ms and job.state is State.WAITING else [])])


def trial_of(job: Record) -> str:
    """The sweep that it is a trial of, and its values: `job 3f2a…, number 7: seed 7`."""
    return f"job {job.sweep}, trial {job.sweep_number}: {sweep.words(job.sweep_values)}" if job.sweep else ""


def waits_for(job: Record) -> str:
    """What keeps a job that nobody holds out of the queue: `starts after train (3f2a…)`, `starts at 2026-11-30 …`."""
    if job.reason is Reason.AFTER_TIME and job.start_ms:
        return f"starts at {clock(job.start_ms)}"
    return job.trials.sentence() if job.trials else " ".join(job.detail.split()) or "waits"


def kept_for(job: Record) -> str:
    """The jobs that start from its checkpoints, which are kept until those jobs have ended."""
    return ", ".join(f"job {name} (step {step})" for name, step in sorted(job.starters.items()))


def when(job: Record, now_ms: int) -> str:
    """How much longer it takes, or how long it has been what it is: `waits 3m 5s`, `ended 2h 4m ago`."""
    if job.state is State.RUNNING and job.eta_seconds is not None:
        return f"{span(job.eta_seconds)} left"
    if job.state in ENDED:
        return f"ended {ago(job.ended_ms or job.created_ms, now_ms)}"
    if job.state in OWNED:
        return f"runs {since(job.started_ms or job.queued_ms or job.created_ms, now_ms)}"
    if job.trials and not job.held:
        return f"runs {since(job.created_ms, now_ms)}"
    return f"waits {since(job.queued_ms or job.created_ms, now_ms)}"


def since(then_ms: int, now_ms: int) -> str:
    """How long a moment has passed, as `span`; times are milliseconds since 1970."""
    return span(max(0, now_ms - then_ms) / 1000)


def ago(then_ms: int, now_ms: int) -> str:
    """`3m 5s ago`."""
    return f"{since(then_ms, now_ms)} ago"


def clock(at_ms: int) -> str:
    """A moment by the clock of this machine: `2026-11-29 14:03:22`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def trained_ms(job: Record, now_ms: int) -> int:
    """How long its trainer has run, over all claims, by its history."""
    total, since_ms = 0, None
    for event in job.history:
        if since_ms is not None:
            total += max(0, event.at_ms - since_ms)
        since_ms = event.at_ms if event.state is State.RUNNING else None
    return total + (max(0, now_ms - since_ms) if since_ms is not None else 0)


def ran(job: Record, now_ms: int) -> str:
    """`2h 5m in 3 claims`; "" for one that has not run."""
    trained = trained_ms(job, now_ms)
    return f"{span(trained / 1000)}{f' in {job.epoch} claims' if job.epoch > 1 else ''}" if trained else ""


def moment(at_ms: int, now_ms: int) -> str:
    """`2026-11-29 14:03:22, 3m 5s ago`."""
    return f"{clock(at_ms)}, {ago(at_ms, now_ms)}"


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


def not_compared(job: Record) -> list[str]:
    """Return what ModelScope gave of its own, whose files nobody could compare with the Hub's."""
    return [f"{name} at its commit {commit[:8]}: not compared with the Hub" for name, commit in job.uncompared.items()]


def rehearsed(job: Record) -> str:
    """What came of the rehearsal before the run."""
    told = job.rehearsal
    if not told:
        return ""
    how = "passed" if told.get("ok") else "not passed"
    return f"{how} on {told.get('box')} in {span(told.get('seconds'))}: {told.get('detail')}"


def cells(job: Record, now_ms: int, waits: str = "") -> tuple[str, ...]:
    """What stands in each of COLUMNS in a job's line; `waits` as in `note`."""
    found = (
        job.id,
        job.name,
        job.label,
        progress(job),
        "" if (loss := job.trials.best if job.trials else job.loss) is None else f"{loss:.3f}",
        "" if job.step_seconds is None else f"{job.step_seconds:.2f}",
        when(job, now_ms),
        job.box or "",
        kept(job),
        " · ".join(filter(None, [sweep.words(job.sweep_values), note(job, waits)])),
    )
    return tuple(cell.replace("\n", " ").replace("\t", " ") for cell in found)


def broken_cells(error: BadRecord) -> tuple[str, ...]:
    """What stands in each of COLUMNS in the line of a job whose record cannot be read."""
    note = f"{error.damage}: `pi0q cancel {error.shown_id}` removes it"
    return (error.shown_id, "", "broken", *[""] * (len(COLUMNS) - 4), note)


def listed(page: Page, waits: Mapping[str, str], *, width: int | None = None) -> Iterator[str]:
    """Yield a page of jobs as plain lines.

    Args:
        waits: What queued jobs wait for, by id.
        width: Columns to which lines are cut; None for no limit.
    """
    rows = [cells(job, page.now_ms, waits.get(job.id, "")) for job in page.jobs]
    rows += map(broken_cells, page.broken)
    if not rows:
        yield nothing(page)
        return
    yield from plain_table.lines(COLUMNS, rows, width=width)
    if more := left_out(page):
        yield more


def left_out(page: Page) -> str:
    """Return how many jobs a page leaves out; "" for none."""
    return f"… and {page.left_out} more: `pi0q ls --all`" if page.left_out else ""


def nothing(page: Page) -> str:
    """Return what is said instead of a list without a line."""
    return "No job matches. `pi0q ls --all` lists every job." if page.counts.live or page.counts.ended else NO_JOBS


def totals(counts: Counts) -> str:
    """Return `2 running, 10 queued, 1 held, 5 ended`."""
    numbers = {
        "running": counts.active,
        "queued": counts.queued,
        "waiting": counts.waiting,
        "held": counts.held,
        "ended": counts.ended,
    }
    return ", ".join(f"{number} {what}" for what, number in numbers.items() if number) or "no jobs"
