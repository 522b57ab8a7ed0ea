"""`pi0q boxes`."""

from __future__ import annotations

import json

import click
from rich.table import Table

from pi0q.queue import render, settings
from pi0q.queue.verbs.common import open_store

COLUMNS = ("BOX", "STATUS", "SEEN", "JOBS", "FREE VRAM", "FREE DISK", "LEROBOT", "NOTE")
#: Columns whose text goes on below where there is little room.
LONG = ("BOX", "FREE VRAM", "NOTE")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def boxes(as_json: bool) -> None:
    """The GPU boxes: what each has free, what it runs, and why it may take nothing."""
    found, silent = open_store().boxes(), settings.load().timing.silent
    for box in found:
        box["status"] = status(box, silent)
    if as_json:
        render.print_json([_plain(box) for box in found])
        return
    if not found:
        click.echo("No box yet. `pi0q worker` on a GPU machine makes it one; `pi0q up` makes this machine one.")
        return
    console = render.console()
    console.print(table(found, width=console.width))


def table(found: list[dict[str, str]], *, width: int = render.PIPE_WIDTH) -> Table:
    """A box a row; on a terminal of few columns the long cells go on below, and LeRobot's version is left to --json."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    columns = [column for column in COLUMNS if column != "LEROBOT" or width >= 100]
    for column in columns:
        long = column in LONG
        shown.add_column(
            column, no_wrap=not long, overflow="fold" if long else "ellipsis", min_width=8 if long else None
        )
    for box in found:
        gpus = ", ".join(
            f"{gpu['name']} {gpu['free_mib'] / 1024:.1f}/{gpu['total_mib'] / 1024:.0f} GiB"
            + (" (simulated)" if gpu.get("simulated") else "")
            for gpu in json.loads(box.get("gpus") or "[]")
        )
        cells = {
            "BOX": box["name"],
            "STATUS": box["status"],
            "SEEN": f"{render.span(float(box['seen_seconds']))} ago",
            "JOBS": f"{box.get('running', '0')}/{box.get('slots', '?')}",
            "FREE VRAM": gpus or "none",
            "FREE DISK": render.mib(int(box.get("disk_free_mib") or 0)),
            "LEROBOT": box.get("lerobot", ""),
            "NOTE": _note(box),
        }
        shown.add_row(*(cells[column] for column in columns))
    return shown


def status(box: dict[str, str], silent: float) -> str:
    """How a box is; one that was not heard of for `silent` seconds is unreachable."""
    said = box.get("status", "")
    if float(box["seen_seconds"]) > silent and said != "stopped":
        return "unreachable"
    if box.get("drain") and said == "ready":
        # It has not yet heard of it.
        return "draining"
    return said


def _note(box: dict[str, str]) -> str:
    refused = len(json.loads(box.get("refusals") or "{}"))
    # A drained box refuses them all, and that is said already.
    unfit = f"{refused} waiting do not fit: `pi0q why ID` says why" if refused and not box.get("drain") else ""
    drained = box.get("drain_text", "drained") if box.get("drain") else ""
    return " · ".join(part for part in (drained, box.get("note", ""), unfit) if part)


def _plain(box: dict[str, str]) -> dict[str, object]:
    listed = {name: json.loads(box.get(name) or empty) for name, empty in (("gpus", "[]"), ("refusals", "{}"))}
    return {**box, **listed, "seen_seconds": float(box["seen_seconds"])}
