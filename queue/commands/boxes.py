"""`pi0q boxes`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import NotFound
from pi0q.queue import box_staging, box_status, box_text, capacity, job_text, plain_table, refusals, settings
from pi0q.queue.box_fields import EVERY_JOB
from pi0q.queue.capacity import CardNeed, CardRoom
from pi0q.queue.commands.common import open_reader
from pi0q.queue.refusals import Refusal

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("BOX", "STATUS", "SEEN", "JOBS", "FREE VRAM", "FREE DISK", "LEROBOT", "NOTE")
#: Columns whose text is folded on a narrow terminal.
LONG = ("BOX", "FREE VRAM", "NOTE")
#: Boxes up to which a terminal gets a table that folds; more of them are printed plain, as into a pipe.
MOST_COLOURED = 200
#: Waiting jobs of which --json says whether they fit each box's GPUs.
LISTED_MISFITS = 20

#: What a box did that is no longer heard of is no news.
AWAY = ("stopped", "unreachable")
#: Fields of a box that are JSON.
LISTS = ("free_mib", "plans", "holders", "caches", "staging")

Waiting = Mapping[tuple[int, int], int]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def boxes(ctx: click.Context, as_json: bool) -> None:
    """The GPU boxes: what each has free, what it runs, and why it takes no jobs.

    \b
      pi0q boxes               a line a box
      pi0q boxes show BOX      each of its cards, and the jobs on it
      pi0q boxes rm BOX        forget a box that is gone for good
    """
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json)


@boxes.command()
@click.argument("box", metavar="BOX")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(box: str, as_json: bool) -> None:
    """Each card of a box with its free VRAM and the jobs on it."""
    store, silent = open_reader(), settings.load().timing.silent
    announced = store.boxes()
    found = next((one for one in announced if one["name"] == box), None)
    if found is None:
        known = ", ".join(sorted(one["name"] for one in announced)) or "none so far"
        raise NotFound(f"There is no box {box}. Known are: {known}.")
    found["status"] = box_status.status(found, silent)
    jobs = store.owned(box)
    if as_json:
        owned = [{"id": job.id, "name": job.name, "state": job.state.value, "gpus": job.gpus} for job in jobs]
        job_text.print_json({**_plain(found, {}), "jobs": owned})
        return
    click.echo("\n".join(box_text.details(found, jobs, idle=box_status.idle_text(found, time.time()))))


@boxes.command()
@click.argument("names", nargs=-1, required=True, metavar="BOX…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rm(names: tuple[str, ...], as_json: bool) -> None:
    """Forget boxes that are gone for good. One that is up, or that holds a job's lease, stays.

    A box that comes back announces itself again.
    """
    from pi0q.queue.commands.common import open_store

    store, silent = open_store(), settings.load().timing.silent
    for name in names:
        store.forget_box(name, silent)
        if not as_json:
            click.echo(f"{name} is forgotten; if it starts again, it is back in the list.")
    if as_json:
        job_text.print_json({"removed": list(names)})


def _list(*, as_json: bool) -> None:
    store, silent = open_reader(), settings.load().timing.silent
    announced = store.boxes(about=EVERY_JOB) if as_json else store.boxes()
    announced.sort(key=lambda box: box_text.by_name(box["name"]))
    for box in announced:
        box["status"] = box_status.status(box, silent)
    if as_json:
        needs = store.waiting_needs(LISTED_MISFITS)
        job_text.print_json([_plain(box, needs) for box in announced])
        return
    if not announced:
        click.echo("No boxes registered. Run `pi0q worker` on a GPU machine, or `pi0q up` to use this one.")
        return
    waiting, terminal = store.waiting_by_needs(), sys.stdout.isatty()
    if terminal and len(announced) <= MOST_COLOURED:
        from pi0q.queue import render

        console = render.console()
        console.print(table(announced, waiting, width=console.width))
        return
    width = shutil.get_terminal_size().columns if terminal else None
    rows = [cells(box, waiting) for box in announced]
    click.echo("\n".join(plain_table.lines(COLUMNS, rows, width=width)))


def cells(box: dict[str, str], waiting: Waiting) -> tuple[str, ...]:
    """Return what stands in each of COLUMNS in a box's line.

    `waiting`: how many jobs wait, by GPUs and MiB of VRAM on each.
    """
    found = (
        box["name"],
        box["status"],
        f"{job_text.span(float(box['seen_seconds']))} ago",
        f"{box.get('running', '0')}/{box.get('slots', '?')}",
        box_text.cards(box) or "none",
        job_text.mib(int(box.get("disk_free_mib") or 0)),
        box.get("lerobot", ""),
        _note(box, waiting),
    )
    return tuple(cell.replace("\n", " ").replace("\t", " ") for cell in found)


def table(announced: list[dict[str, str]], waiting: Waiting, *, width: int) -> Table:
    """Return a row a box; on a narrow terminal long cells are folded and LeRobot's version is left to --json."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    columns = [column for column in COLUMNS if column != "LEROBOT" or width >= 100]
    for column in columns:
        long = column in LONG
        shown.add_column(
            column, no_wrap=not long, overflow="fold" if long else "ellipsis", min_width=8 if long else None
        )
    for box in announced:
        by_column = dict(zip(COLUMNS, cells(box, waiting), strict=True))
        shown.add_row(*(by_column[column] for column in columns))
    return shown


def _note(box: dict[str, str], waiting: Waiting) -> str:
    refused, cards = int(box.get("refused") or 0), capacity.announced(box)
    if cards is not None:
        refused += sum(count for needs, count in waiting.items() if _lack(needs, cards))
    staging, idle = box_staging.read(box), box_status.idle_text(box, time.time())
    # A drained box refuses them all, and so does one without cards: that is said already.
    any_fits = not (box.get("drain") or staging)
    unfit = f"{refused} waiting do not fit: `pi0q why ID` says why" if refused and any_fits else ""
    drained = box.get("drain_text", "drained") if box.get("drain") else ""
    fetching = "" if staging is None else staging.mode if box["status"] in AWAY else str(staging)
    parts = (drained, fetching, box.get("note", ""), idle, unfit)
    return " · ".join(filter(None, parts))


def _plain(box: dict[str, str], needs: Mapping[str, tuple[int, int]]) -> dict[str, object]:
    refused, cards = refusals.loads(box.get("refusals")), capacity.announced(box)
    if cards is not None:
        # A box announces only refusals of jobs that fit its GPUs.
        lacking = {job: lack for job, needed in needs.items() if (lack := _lack(needed, cards))}
        refused = {**{job: (lack,) for job, lack in lacking.items()}, **refused}
    return {
        **box,
        **{name: int(box.get(name) or 0) for name in ("slots", "running", "disk_free_mib")},
        **{name: json.loads(box[name]) for name in LISTS if box.get(name)},
        "gpus": json.loads(box.get("gpus") or "[]"),
        "refusals": {job: [{**one.to_json(), "text": str(one)} for one in why] for job, why in refused.items()},
        "refused": int(box["refused"]),
        **({"idle": json.loads(box["idle"])} if box.get("idle") else {}),
        "seen_seconds": float(box["seen_seconds"]),
    }


def _lack(needs: tuple[int, int], cards: Sequence[CardRoom]) -> Refusal | None:
    return capacity.shortage(CardNeed(gpus=needs[0], vram_mib=needs[1]), cards)
