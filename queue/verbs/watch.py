"""`pi0q watch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import UsageError
from pi0q.jobs.record import Record
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
@click.option("--json", "as_json", is_flag=True, help="Print a job's record, one JSON object a line, at each change.")
def watch(job: str | None, as_json: bool) -> None:
    """Watch one job until it ends, or all of them; Ctrl-C only stops looking.

    Ends with 0 when the job succeeded and 1 when it did not.
    """
    store = open_store()
    if job is not None:
        follow(store, store.resolve(job), as_json=as_json)
    elif as_json:
        raise UsageError("`pi0q watch --json` watches one job: give its ID.")
    else:
        _live(store, lambda: (render.table(store.page(), width=render.console().width), False))


def follow(store: Store, job_id: str, *, as_json: bool = False) -> None:
    """Shows one job until it ends; exits 1 if it did not succeed."""
    if as_json:
        _lines(store, job_id, _as_json)
    elif sys.stdout.isatty():
        _live(store, lambda: screen(store, job_id))
    else:
        _lines(store, job_id, _as_words)
    record = store.get(job_id)
    if record.state in ENDED and record.state is not State.SUCCEEDED:
        sys.exit(1)


def screen(store: Store, job_id: str) -> tuple[RenderableType, bool]:
    """What a terminal shows of one job, and whether it has ended."""
    record = store.get(job_id)
    tail = store.tail(job_id)[0].splitlines()[-LOG_LINES:]
    return render.details(record, store.now_ms(), tail, store.waits(record)), record.state in ENDED


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


def _lines(store: Store, job_id: str, say: Callable[[Record], tuple[str, str]]) -> None:
    """For pipes and files: a line whenever what `say` marks has changed."""
    pubsub, last = store.subscribe("changes"), ""
    try:
        while True:
            job = store.get(job_id)
            mark, line = say(job)
            if mark != last:
                click.echo(line)
                last = mark
            if job.state in ENDED:
                return
            await_news(pubsub, job_id, SLOWEST)
    except KeyboardInterrupt:
        click.echo("Stopped looking; the job goes on.", err=True)


def _as_words(job: Record) -> tuple[str, str]:
    """Changes with state, phase, each save and each tenth of the way."""
    saved = job.checkpoint.step if job.checkpoint else None
    tenth = 10 * (job.step or 0) // job.steps if job.steps else 0
    words = [
        job.state.value,
        render.progress(job),
        "" if job.loss is None else f"loss {job.loss:.3f}",
        "" if saved is None else f"saved {saved}",
        render.note(job),
    ]
    return f"{job.state}{job.phase.split(' ')[0]}{tenth}{job.epoch}{saved}", "  ".join(word for word in words if word)


def _as_json(job: Record) -> tuple[str, str]:
    line = render.json_text(job.to_json())
    return line, line
