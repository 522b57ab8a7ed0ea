"""Everything that is known of one job, as labels and texts: for a pipe as it is, for a terminal by render.py. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pi0q.jobs.estimates import save_cost
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.queue import plain_table
from pi0q.queue.job_text import (
    before,
    clock,
    copied,
    held_out,
    kept_for,
    mib,
    moment,
    not_compared,
    pushed,
    ran,
    rehearsed,
    seen,
    span,
    started_from,
    starts_after,
    swanlab,
    trial_of,
    wandb,
    wanted,
    when,
    wished,
)

#: Columns of a job's history.
HISTORY = ("TIME", "AFTER", "STATE", "CLAIM", "BOX", "WHAT")
#: Characters of the bar.
BAR = 30


def vram_peak(job: Record) -> str:
    """Return the most that its trainers held of a card, and of each card where there are several."""
    each = f" (by rank {', '.join(map(mib, job.vram_peaks_mib))})" if len(job.vram_peaks_mib) > 1 else ""
    return mib(job.vram_peak_mib) + each if job.vram_peak_mib else ""


def samples(job: Record) -> str:
    """Return the samples a second of all its GPUs; "" of a job of one, or where the file does not say its batch."""
    count = job.needs.get("gpus", 0)
    batch = (job.spec.get("train") or {}).get("batch_size")
    if count < 2 or not isinstance(batch, int) or not job.step_seconds:
        return ""
    return f", {batch * count / job.step_seconds:.1f} samples/s over {count} GPUs"


def rows(job: Record, now_ms: int, waits: Sequence[str] = (), spent: str = "") -> list[tuple[str, str]]:
    """Label and value of everything that a person would want to know of a job; `spent`: what it cost, in words."""
    saved = job.checkpoint
    speed = f"{job.step_seconds:.3f} s a step{samples(job)}" if job.step_seconds else ""
    return [
        ("job", f"{job.name}  {job.id}"),
        ("state", "  ".join(filter(None, [job.label, job.phase, wished(job)]))),
        ("reason", f"{job.detail} ({job.reason})".strip() if job.reason else ""),
        ("what to do", job.next_step),
        ("seen", "\n".join(seen(job))),
        ("progress", progress_bar(job)),
        ("loss", "" if job.loss is None else f"{job.loss:.4f}" + (f"   lr {job.lr:.2e}" if job.lr else "")),
        ("held-out loss", held_out(job)),
        ("speed", speed + (f"   {when(job, now_ms)}" if job.eta_seconds and job.state is State.RUNNING else "")),
        ("box", f"{job.box}  claim {job.epoch}, attempt {job.attempt}" if job.box else ""),
        ("needs", wanted(job.needs)),
        ("runs on", str(job.choice)),
        ("preflight", before(job)),
        ("ModelScope", "\n".join(not_compared(job))),
        ("rehearsal", rehearsed(job)),
        ("VRAM peak", vram_peak(job)),
        ("checkpoint", f"step {saved.step}, {saved.bytes / 1e6:.0f} MB, verified\n{saved.path}" if saved else ""),
        ("copy", copied(job)),
        ("saves", "\n".join(save_cost.shown(job))),
        ("WandB", "\n".join([*wandb(job), job.wandb_dir if job.wandb_dir and not job.wandb_url else ""]).strip()),
        ("SwanLab", "\n".join(swanlab(job))),
        ("push", pushed(job)),
        ("sweep", job.trials.sentence() if job.trials else trial_of(job)),
        ("best trial", f"job {job.trials.best_id}" if job.trials and job.trials.best_id else ""),
        ("starts after", starts_after(job)),
        ("starts from", started_from(job)),
        ("kept for", kept_for(job)),
        ("goes on from", job.continues),
        ("went on as", job.continued),
        ("trained", ran(job, now_ms)),
        ("cost", spent),
        ("submitted", f"{moment(job.created_ms, now_ms)}, by {job.submitter}, priority {job.priority}"),
        ("ended", moment(job.ended_ms, now_ms) if job.ended_ms else ""),
        ("waits for", "\n".join(waits)),
    ]  # fmt: skip


def progress_bar(job: Record) -> str:
    """Return a bar with the training's own step, which never runs backwards on a resume; "" before steps are known."""
    if not job.steps or job.trials:
        return ""
    share = min(1.0, (job.step or 0) / job.steps)
    return f"{'━' * round(BAR * share):<{BAR}} {job.step or 0}/{job.steps}  {share:.0%}"


def history_rows(job: Record) -> Iterator[tuple[str, ...]]:
    """Yield the cells of HISTORY, oldest first: by the clock of this machine, and how long after the submit."""
    for event in job.history:
        after = span((event.at_ms - job.created_ms) / 1000)
        text = " ".join((event.text or str(event.reason or "")).split())
        yield clock(event.at_ms), after, event.label, str(event.epoch or ""), event.box or "", text


def lines(job: Record, now_ms: int, waits: Sequence[str], spent: str = "") -> Iterator[str]:
    """Yield the lines of `pi0q show` into a pipe: labels, what the job waits for, its history."""
    told = [(label, text) for label, text in rows(job, now_ms, waits, spent) if text]
    width = max(len(label) for label, _ in told)
    for label, text in told:
        first, *more = text.splitlines()
        yield f"{label:<{width}}  {first}"
        yield from (f"{'':<{width}}  {line}" for line in more)
    yield ""
    yield from plain_table.lines(HISTORY, history_rows(job))
