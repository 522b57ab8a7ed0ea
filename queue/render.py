"""How jobs look on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pi0q.jobs.errors import BadRecord
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.queue import job_details, job_text
from pi0q.queue.job_list import Page
from pi0q.queue.job_text import (
    COLUMNS,
    left_out,
    nothing,
    totals,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of a pipe or file, where no terminal sets the width.
PIPE_WIDTH = 200
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


def table(page: Page, waits: Mapping[str, str] | None = None, *, width: int = PIPE_WIDTH) -> RenderableType:
    """A line of totals, then one line a job.

    Args:
        waits: What queued jobs wait for, by id.
        width: That of the terminal, in columns.
    """
    shown = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    # A column is one cell of many lines: with a cell a job rich would need a sixth of the time of all `pi0q ls`.
    lines, row = Text("\n", no_wrap=True, overflow="ellipsis"), []
    known = waits or {}
    rows = [*(_texts(job, page.now_ms, known.get(job.id, "")) for job in page.jobs), *map(_broken_texts, page.broken)]
    for column, jobs in zip(COLUMNS, zip(*rows, strict=True), strict=False):
        if width >= ROOM.get(column, 0):
            # Columns that rich may wrap are the first that it makes narrower; their text is cut all the same.
            elastic = column in ELASTIC
            shown.add_column(column, no_wrap=not elastic, overflow="ellipsis", min_width=5 if elastic else None)
            row.append(lines.join(jobs))
    shown.add_row(*row)
    if not rows:
        return Text(nothing(page))
    more = left_out(page)
    return Group(Text(totals(page.counts), "dim"), shown, *([Text(more, "dim")] if more else []))


def _texts(job: Record, now_ms: int, waits: str) -> tuple[Text, ...]:
    found = job_text.cells(job, now_ms, waits)
    return tuple(
        Text(cell, COLOURS[job.state] if column == "STATE" else "") for column, cell in zip(COLUMNS, found, strict=True)
    )


def _broken_texts(error: BadRecord) -> tuple[Text, ...]:
    found = job_text.broken_cells(error)
    return tuple(
        Text(cell, "bold red" if column == "STATE" else "") for column, cell in zip(COLUMNS, found, strict=True)
    )


def details(
    job: Record, now_ms: int, tail: Sequence[str] = (), waits: Sequence[str] = (), spent: str = ""
) -> RenderableType:
    """All that is known of one job."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in job_details.rows(job, now_ms, waits, spent):
        if text:
            grid.add_row(label, _styled(job, label, text))
    parts: list[RenderableType] = [grid]
    if tail:
        parts += [
            Text("\nlog", "dim"),
            *(Text("  " + line, overflow="ellipsis", no_wrap=True) for line in tail),
        ]
    return Group(*parts)


def _styled(job: Record, label: str, text: str) -> RenderableType:
    if label == "progress":
        return bar(job)
    styles = {"job": (job.name, "bold"), "state": (job.label, COLOURS[job.state])}
    if label not in styles:
        return text
    word, style = styles[label]
    return Text.assemble((word, style), text.removeprefix(word))


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
    """What happened, oldest first: by the clock of this machine, and how long after the submit."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in job_details.HISTORY:
        shown.add_column(column, no_wrap=column != "WHAT", overflow="fold")
    for event, cells in zip(job.history, job_details.history_rows(job), strict=True):
        styled = (Text(cell, COLOURS[event.state]) if at == 2 else cell for at, cell in enumerate(cells))
        shown.add_row(*styled)
    return shown
