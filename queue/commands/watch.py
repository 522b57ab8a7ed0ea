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
from pi0q.queue import job_text, place_lookup, render, settings, wait_notes
from pi0q.queue.commands.common import JOB, leave_after_interrupt, open_store
from pi0q.queue.commands.ls import arranged, sweep_notes
from pi0q.queue.following import SLOWEST, Follower, link_words
from pi0q.queue.place_lookup import in_turn
from pi0q.queue.store import Store
from pi0q.queue.terminal_keys import TerminalKeys

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Seconds between two redraws at the least, and between two looks at the keyboard.
FASTEST, KEY_SECONDS = 0.25, 0.2
LOG_LINES = 10


@click.command()
@click.argument("job", metavar="[ID]", required=False, type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print a job's record, one JSON object a line, at each change.")
def watch(job: str | None, as_json: bool) -> None:
    """Follow one job until it ends, or all of them (q or Ctrl-C detaches; the jobs keep running).

    A lost link to the queue is told and tried again; nothing of it stops the jobs.

    Exits with 0 if the job succeeded and 1 if it did not.
    """
    store = open_store()
    if job is not None:
        follow(store, store.resolve(job), as_json=as_json)
    elif as_json:
        raise UsageError("`pi0q watch --json` watches one job: give its ID.")
    else:
        silent_seconds = settings.load().timing.silent
        _live(store, lambda: (everything(store, silent_seconds), False))


def everything(store: Store, silent_seconds: float) -> RenderableType:
    """Return what a terminal shows of all jobs, as `pi0q ls`."""
    page, boxes = in_turn(store, store.page(), silent_seconds)
    page = arranged(page, children=False)
    waits = {**wait_notes.notes(page, boxes, silent_seconds), **sweep_notes(page)}
    return render.table(page, waits, width=render.console().width)


def follow(store: Store, job_id: str, *, as_json: bool = False) -> None:
    """Show one job until it ends; exit with 1 if it did not succeed."""
    if as_json:
        _lines(store, job_id, _as_json)
    elif sys.stdout.isatty():
        silent_seconds = settings.load().timing.silent
        _live(store, lambda: screen(store, job_id, silent_seconds))
    else:
        _lines(store, job_id, _as_words)
    record = store.get(job_id)
    if record.state in ENDED and record.state is not State.SUCCEEDED:
        sys.exit(1)


def screen(store: Store, job_id: str, silent_seconds: float) -> tuple[RenderableType, bool]:
    """Return what a terminal shows of one job, and whether it has ended."""
    record = store.get(job_id)
    tail = store.tail(job_id)[0].splitlines()[-LOG_LINES:]
    waits = place_lookup.told(store, record, silent_seconds)
    return render.details(record, store.now_ms(), tail, waits), record.state in ENDED


def _live(store: Store, look: Callable[[], tuple[RenderableType, bool]]) -> None:
    """Show a picture on a screen of its own until it is over, or until q or Ctrl-C; the last one stays."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = render.console()
    shown: RenderableType = ""

    def away(seconds: float) -> None:
        lost = Text(f"link away since {seconds:.0f} s, trying again", "bold yellow")
        live.update(Group(lost, shown), refresh=True)

    follower, over, interrupted = Follower(store, away, lambda _: None), False, False
    shown, over = follower.look(look)
    try:
        with TerminalKeys() as keys, Live(shown, console=console, auto_refresh=False, screen=True) as live:
            live.refresh()
            while not over and not _asked_to_leave(follower, keys):
                shown, over = follower.look(look)
                live.update(shown, refresh=True)
                time.sleep(FASTEST)
    except KeyboardInterrupt:
        interrupted = True
    console.print(shown)
    if not over:
        click.echo("Detached. The jobs keep running.", err=True)
    if interrupted:
        leave_after_interrupt(0)


def _asked_to_leave(follower: Follower, keys: TerminalKeys) -> bool:
    """Wait for news; return whether q was pressed."""
    give_up = time.monotonic() + SLOWEST
    while time.monotonic() < give_up:
        if "q" in keys.pressed():
            return True
        if follower.wait(None, KEY_SECONDS):
            break
    return False


def _lines(store: Store, job_id: str, say: Callable[[Record], tuple[str, str]]) -> None:
    """For pipes and files: a line whenever what `say` marks has changed."""
    follower, last = Follower(store, *link_words()), ""
    try:
        while True:
            job = follower.look(lambda: store.get(job_id))
            mark, line = say(job)
            if mark != last:
                click.echo(line)
                last = mark
            if job.state in ENDED:
                return
            follower.wait(job_id)
    except KeyboardInterrupt:
        click.echo("Detached. The job keeps running.", err=True)
        leave_after_interrupt(0)


def _as_words(job: Record) -> tuple[str, str]:
    """Changes with state, phase, each save and each tenth of the way."""
    saved = job.checkpoint.step if job.checkpoint else None
    tenth = 10 * (job.step or 0) // job.steps if job.steps else 0
    words = [
        job.label,
        job_text.progress(job),
        "" if job.loss is None else f"loss {job.loss:.3f}",
        "" if saved is None else f"saved {saved}",
        job_text.note(job),
    ]
    return f"{job.state}{job.phase.split(' ')[0]}{tenth}{job.epoch}{saved}", "  ".join(word for word in words if word)


def _as_json(job: Record) -> tuple[str, str]:
    line = job_text.json_text(job.to_json())
    return line, line
