"""`pi0q drain`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.record import Record
from pi0q.queue import render, settings
from pi0q.queue.store import Store, await_news
from pi0q.queue.verbs.common import open_store, user

#: Seconds after which it looks again, whether or not it heard of anything new.
SLOWEST = 5.0
#: What a shell gives for a command that Ctrl-C ended; 0 would let `pi0q drain --wait && poweroff` go on.
INTERRUPTED = 130


@click.command()
@click.argument("box", metavar="BOX")
@click.option("--now", is_flag=True, help="Its jobs save, stop and go back into the queue; else they go on.")
@click.option("--undo", is_flag=True, help="It takes jobs again.")
@click.option("--wait", is_flag=True, help="Come back once nothing runs there; Ctrl-C only stops waiting.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drain(box: str, now: bool, undo: bool, wait: bool, as_json: bool) -> None:
    """Keep a box from new jobs, before you switch it off or give it back. It stays so over restarts until --undo.

    \b
      pi0q drain box-a                  no new jobs; those that run there go on
      pi0q drain box-a --now --wait     save, stop, hand back; comes back when nothing runs there
      pi0q drain box-a --undo           take jobs again
    """
    if undo and (now or wait):
        raise UsageError("--undo ends a drain; --now and --wait begin one. Nothing was changed.")
    store = open_store()
    by = user()
    before = known(store, box).get("drain", "")
    # Jobs that were told to stop can't be told to stay.
    mode = "" if undo else "now" if now or before == "now" else "drain"
    store.drain(box, mode, text=f"drained by {by}" if mode else "")
    jobs = store.owned(box)
    if mode == "now":
        for job in jobs:
            with suppress(NotFound):
                store.stop(job.id, text=f"{by} drains {box}: saves it and hands it back")
    try:
        if not as_json:
            for line in undone(box, before, jobs) if undo else drained(known(store, box), mode, jobs):
                click.echo(line)
        over = follow(store, box, jobs, say=not as_json) if wait and jobs else True
    except KeyboardInterrupt:
        # It is drained by now, and only the waiting can be stopped.
        click.echo(f"\nStopped waiting; {box} stays drained. `pi0q drain {box} --wait` waits again.", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        render.print_json(answer(known(store, box), store.owned(box)))
    sys.exit(0 if over else 1)


def known(store: Store, box: str) -> dict[str, str]:
    """What a box said of itself. Raises NotFound with those there are."""
    found = {said["name"]: said for said in store.boxes()}
    if box not in found:
        names = f"Known are: {', '.join(sorted(found))}." if found else "There is none yet."
        raise NotFound(f"There is no box {box}; nothing was changed. {names}")
    return found[box]


def drained(box: dict[str, str], mode: str, jobs: Sequence[Record]) -> list[str]:
    """What a person reads of a drain that begins."""
    name, chosen = box["name"], settings.load()
    said, silent = [f"{name} takes no new jobs from now on."], float(box["seen_seconds"])
    away = box.get("status") == "stopped" or silent > chosen.timing.silent
    if away:
        said.append(f"It was last heard of {render.span(silent)} ago; it learns of this when it is back.")
    if not jobs:
        said.append("Nothing runs there: it can be switched off.")
    else:
        count = f"{len(jobs)} job{'s' * (len(jobs) != 1)}"
        does = ("save", "stop", "go") if len(jobs) > 1 else ("saves", "stops", "goes")
        now = f"{count} there {does[0]}, {does[1]} and {does[2]} back into the queue:"
        said.append(now if mode == "now" else f"{count} there {does[2]} on to the end:")
        said += [f"  {line(job)}" for job in jobs]
        if mode == "now":
            said += stays(name, jobs, chosen)
        else:
            said.append(f"To have them saved and handed back instead: pi0q drain {name} --now")
    return [*said, f"To let it take jobs again: pi0q drain {name} --undo"]


def stays(name: str, jobs: Sequence[Record], chosen: settings.Settings) -> list[str]:
    """What becomes of the checkpoints of jobs that go back into the queue."""
    said, bare = [], [job for job in jobs if not (job.copied or job.copy_detail)]
    if len(bare) < len(jobs):
        said.append(
            f"Where checkpoints are copied, the last one is copied first (up to {render.span(chosen.copy_seconds)}): "
            "then any box goes on from it at once."
        )
    if bare:
        rest = "The checkpoints of the others" if said else "Their checkpoints"
        said.append(
            f"{rest} stay on {name}: for {render.span(chosen.wait_for_box)} they wait for it, then any box may take "
            "them and begins at step 0."
        )
    return said


def undone(name: str, before: str, jobs: Sequence[Record]) -> list[str]:
    """What a person reads of a drain that ends."""
    if not before:
        return [f"{name} was not drained; nothing was changed."]
    stopping = sum(job.wish == "stop" for job in jobs)
    if not stopping:
        return [f"{name} takes jobs again."]
    those = f"{stopping} job{'s' * (stopping != 1)}"
    return [f"{name} takes jobs again, also {those} that it was told to save and is still saving."]


def line(job: Record) -> str:
    """One job on one line."""
    saved = f"saved at step {job.checkpoint.step}" if job.checkpoint else "nothing saved yet"
    left = f"{render.span(job.eta_seconds)} left" if job.eta_seconds is not None else ""
    return "  ".join(part for part in (job.id, job.name, job.state.value, render.progress(job), left, saved) if part)


def follow(store: Store, box: str, jobs: Sequence[Record], *, say: bool) -> bool:
    """Waits until the box owns nothing; False if someone ended the drain meanwhile."""
    there = {job.id for job in jobs}
    pubsub = store.subscribe("changes")
    while True:
        left = store.owned(box)
        for gone in sorted(there - {job.id for job in left}):
            if say:
                click.echo(told(store.get(gone)))
        there = {job.id for job in left}
        if not left:
            if say:
                click.echo(f"Nothing runs on {box} any more: it can be switched off.")
            return True
        if not known(store, box).get("drain"):
            click.echo(f"Someone ended the drain of {box}; stopped waiting.", err=True)
            return False
        await_news(pubsub, None, SLOWEST)


def told(job: Record) -> str:
    """What became of a job that the box no longer has."""
    at = f" at step {job.step}" if job.step is not None else ""
    return f"{job.name} {job.id} is {job.state}{at}."


def answer(box: dict[str, str], jobs: Sequence[Record]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "box": box["name"],
        "drain": box.get("drain", ""),
        "seen_seconds": float(box["seen_seconds"]),
        "jobs": [
            {"id": job.id, "name": job.name, "state": job.state.value, "step": job.step, "wish": job.wish}
            for job in jobs
        ],
    }
