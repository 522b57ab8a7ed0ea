"""`pi0q drain`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.record import Record
from pi0q.queue import box_status, job_text, settings
from pi0q.queue.commands.common import INTERRUPTED, leave_after_interrupt, open_store
from pi0q.queue.current_user import user
from pi0q.queue.store import Store, await_news

#: Seconds after which it reads the box again, whether or not anything was published.
SLOWEST = 5.0


@click.command()
@click.argument("box", metavar="BOX")
@click.option("--now", is_flag=True, help="Its jobs save, stop and go back into the queue; without it they continue.")
@click.option("--undo", is_flag=True, help="Let the box take jobs again.")
@click.option("--wait", is_flag=True, help="Return once nothing runs there; Ctrl-C only stops the waiting.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drain(box: str, now: bool, undo: bool, wait: bool, as_json: bool) -> None:
    """Keep a box from new jobs before you switch it off or return it. The drain outlives restarts; --undo ends it.

    \b
      pi0q drain box-a                  no new jobs; those that run there go on
      pi0q drain box-a --now --wait     save, stop, hand back; returns when nothing runs there
      pi0q drain box-a --undo           take jobs again
    """
    if undo and (now or wait):
        raise UsageError("--undo ends a drain; --now and --wait begin one. Nothing was changed.")
    store = open_store()
    before = known(store, box).get("drain", "")
    mode = drain_mode(before, now=now, undo=undo)
    jobs = request(store, box, mode)
    try:
        if not as_json:
            click.echo("\n".join(undone(box, before, jobs) if undo else drained(known(store, box), mode, jobs)))
        idle = follow(store, box, jobs, say=not as_json) if wait and jobs else True
    except KeyboardInterrupt:
        # The box is drained by now; only the waiting can be stopped.
        click.echo(f"\nStopped waiting; {box} stays drained. `pi0q drain {box} --wait` waits again.", err=True)
        leave_after_interrupt(INTERRUPTED)
    if as_json:
        job_text.print_json(answer(known(store, box), store.owned(box)))
    sys.exit(0 if idle else 1)


def drain_mode(before: str, *, now: bool, undo: bool) -> str:
    """Return `now`, `drain` or "" (not drained), given the mode `before`."""
    if undo:
        return ""
    # Jobs that were told to stop can't be told to stay.
    return "now" if now or before == "now" else "drain"


def request(store: Store, box: str, mode: str) -> list[Record]:
    """Set the box's drain and, in mode `now`, ask for its jobs; return the jobs that run there."""
    by = user()
    store.drain(box, mode, text=f"drained by {by}" if mode else "")
    jobs = store.owned(box)
    if mode == "now":
        for job in jobs:
            with suppress(NotFound):
                store.request_handback(job.id, text=f"{by} drains {box}: the job saves and goes back into the queue")
    return jobs


def known(store: Store, box: str) -> dict[str, str]:
    """Return what a box announced. Raises NotFound, which names the boxes there are."""
    by_name = {announced["name"]: announced for announced in store.boxes()}
    if box not in by_name:
        names = f"Known are: {', '.join(sorted(by_name))}." if by_name else "There is none yet."
        raise NotFound(f"There is no box {box}; nothing was changed. {names}")
    return by_name[box]


# -- what a person reads ------------------------------------------------------------------------------


def drained(box: dict[str, str], mode: str, jobs: Sequence[Record]) -> list[str]:
    """Return the lines about a drain that begins."""
    name, chosen = box["name"], settings.load()
    lines = [f"{name} takes no new jobs from now on."]
    if not box_status.is_up(box, chosen.timing.silent):
        ago = job_text.span(float(box["seen_seconds"]))
        lines.append(f"Last heartbeat {ago} ago; the drain takes effect when it reconnects.")
    if jobs:
        lines += handed_back(name, jobs, chosen) if mode == "now" else going_on(name, jobs)
    else:
        lines.append("Nothing runs there: it can be switched off.")
    return [*lines, f"To let it take jobs again: pi0q drain {name} --undo"]


def going_on(name: str, jobs: Sequence[Record]) -> list[str]:
    """Return the lines about jobs that run to their end."""
    head = f"{_count(jobs)} there {'goes' if len(jobs) == 1 else 'go'} on to the end:"
    return [head, *map(_indented, jobs), f"To have them saved and handed back instead: pi0q drain {name} --now"]


def handed_back(name: str, jobs: Sequence[Record], chosen: settings.Settings) -> list[str]:
    """Return the lines about jobs that go back into the queue."""
    does = "saves, stops and goes" if len(jobs) == 1 else "save, stop and go"
    return [f"{_count(jobs)} there {does} back into the queue:", *map(_indented, jobs), *stays(name, jobs, chosen)]


def _count(jobs: Sequence[Record]) -> str:
    return "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"


def _indented(job: Record) -> str:
    return f"  {line(job)}"


def stays(name: str, jobs: Sequence[Record], chosen: settings.Settings) -> list[str]:
    """Return what becomes of the checkpoints of jobs that go back into the queue."""
    without_copies = [job for job in jobs if not (job.copied or job.copy_detail)]
    lines = []
    if len(without_copies) < len(jobs):
        lines.append(
            f"Where checkpoints are copied, the last one is copied first (up to {job_text.span(chosen.copy_seconds)}): "
            "then any box goes on from it at once."
        )
    if without_copies:
        whose = "The checkpoints of the others" if lines else "Their checkpoints"
        lines.append(
            f"{whose} are on {name} only. Other boxes wait {job_text.span(chosen.wait_for_box)} for it, then restart "
            "them from step 0."
        )
    return lines


def undone(name: str, before: str, jobs: Sequence[Record]) -> list[str]:
    """Return the line about a drain that ends."""
    if not before:
        return [f"{name} was not drained; nothing was changed."]
    stopping = [job for job in jobs if job.wish == "stop"]
    if not stopping:
        return [f"{name} takes jobs again."]
    return [f"{name} takes jobs again, also {_count(stopping)} that it was told to save and is still saving."]


def line(job: Record) -> str:
    """Return one job on one line."""
    saved = f"saved at step {job.checkpoint.step}" if job.checkpoint else "nothing saved yet"
    left = f"{job_text.span(job.eta_seconds)} left" if job.eta_seconds is not None else ""
    return "  ".join(part for part in (job.id, job.name, job.state.value, job_text.progress(job), left, saved) if part)


def follow(store: Store, box: str, jobs: Sequence[Record], *, say: bool) -> bool:
    """Wait until the box owns nothing; return False if someone ended the drain meanwhile."""
    there = {job.id for job in jobs}
    pubsub = store.subscribe("changes")
    while True:
        left = store.owned(box)
        for gone in sorted(there - {job.id for job in left}):
            if say:
                click.echo(became(store.get(gone)))
        there = {job.id for job in left}
        if not left:
            if say:
                click.echo(f"Nothing runs on {box} any more: it can be switched off.")
            return True
        if not known(store, box).get("drain"):
            click.echo(f"Someone ended the drain of {box}; stopped waiting.", err=True)
            return False
        await_news(pubsub, None, SLOWEST)


def became(job: Record) -> str:
    """Return what became of a job that the box no longer has."""
    at = f" at step {job.step}" if job.step is not None else ""
    return f"{job.name} {job.id} is {job.state}{at}."


def answer(box: dict[str, str], jobs: Sequence[Record]) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "box": box["name"],
        "drain": box.get("drain", ""),
        "seen_seconds": float(box["seen_seconds"]),
        "jobs": [
            {"id": job.id, "name": job.name, "state": job.state.value, "step": job.step, "wish": job.wish}
            for job in jobs
        ],
    }
