"""`pi0q watch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pi0q.jobs.state import ENDED, State
from pi0q.queue import render
from pi0q.queue.store import Store, await_news
from pi0q.queue.verbs.common import open_store

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Seconds between two redraws at the most, and at the least.
FASTEST, SLOWEST = 0.25, 5.0
LOG_LINES = 10


@click.command()
@click.argument("job", metavar="[ID]", required=False)
def watch(job: str | None) -> None:
    """Watch one job until it ends, or all of them; Ctrl-C only stops looking.

    Ends with 0 when the job succeeded and 1 when it did not.
    """
    store = open_store()
    if job is not None:
        follow(store, store.resolve(job))
    else:
        _live(store, lambda: (render.table(store.page()), False))


def follow(store: Store, job_id: str) -> None:
    """Shows one job until it ends; exits 1 if it did not succeed."""
    if sys.stdout.isatty():
        _live(store, lambda: screen(store, job_id))
    else:
        _lines(store, job_id)
    record = store.get(job_id)
    if record.state in ENDED and record.state is not State.SUCCEEDED:
        sys.exit(1)


def screen(store: Store, job_id: str) -> tuple[RenderableType, bool]:
    """What a terminal shows of one job, and whether it has ended."""
    record = store.get(job_id)
    tail = store.tail(job_id)[0].splitlines()[-LOG_LINES:]
    return render.details(record, store.now_ms(), tail), record.state in ENDED


def _live(store: Store, look: Callable[[], tuple[RenderableType, bool]]) -> None:
    from rich.live import Live

    pubsub = store.subscribe("changes")
    shown, over = look()
    try:
        with Live(shown, console=render.console(), auto_refresh=False) as live:
            while not over:
                await_news(pubsub, None, SLOWEST)
                shown, over = look()
                live.update(shown, refresh=True)
                time.sleep(FASTEST)
    except KeyboardInterrupt:
        click.echo("Stopped looking; nothing else was stopped.", err=True)


def _lines(store: Store, job_id: str) -> None:
    """For pipes and files: a line whenever state, phase or a tenth of the way changes."""
    pubsub, last = store.subscribe("changes"), ""
    try:
        while True:
            job = store.get(job_id)
            tenth = 10 * (job.step or 0) // job.steps if job.steps else 0
            mark = f"{job.state}{job.phase.split(' ')[0]}{tenth}{job.epoch}{job.checkpoint and job.checkpoint.step}"
            if mark != last:
                words = [job.state.value, render.progress(job), "" if job.loss is None else f"loss {job.loss:.3f}",
                         f"saved {job.checkpoint.step}" if job.checkpoint else "", render.note(job)]  # fmt: skip
                click.echo("  ".join(word for word in words if word))
                last = mark
            if job.state in ENDED:
                return
            await_news(pubsub, job_id, SLOWEST)
    except KeyboardInterrupt:
        click.echo("Stopped looking; the job goes on.", err=True)
