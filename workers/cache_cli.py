"""`pi0q cache`: what fills this box's data disk, what goes of it, what stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import redis
from rich.table import Table

from pi0q.jobs.errors import NotFound, Pi0qError, UsageError
from pi0q.jobs.state import ENDED
from pi0q.queue import render
from pi0q.queue import settings as all_settings
from pi0q.queue.settings import Settings
from pi0q.queue.verbs.common import open_store
from pi0q.workers import clutter, leftovers, probe, shelf, uses
from pi0q.workers.leftovers import Run
from pi0q.workers.shelf import Item, key

#: A job that an emptied queue no longer knows.
FORGOTTEN = "unknown to the queue"
#: States in which nothing of pi0q goes on from what lies here.
OVER = (*(state.value for state in ENDED), FORGOTTEN)


@dataclass(frozen=True, kw_only=True)
class Going:
    """Something that a user wants to be rid of."""

    what: str
    mib: int
    act: Callable[[], int]


@click.group()
def cache() -> None:
    """What fills this box's data disk. Works on the box where it is typed.

    By itself pi0q removes what was used longest ago when a job needs the space, after it has claimed the job: caches
    of the Hub that a job of pi0q fetched, compiled kernels, and what a later verified checkpoint has replaced. Never
    what a job here uses or waits for, what is pinned, or any verified checkpoint.
    """


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """Caches and runs with their sizes; what goes first comes first."""
    settings = all_settings.load()
    items, runs = shelf.everything(settings), list(leftovers.runs(settings))
    states, place = _states(runs), probe.disk(settings.home)
    listed = [_run(run, states.get(run.job_id)) for run in runs]
    if as_json:
        known = [{**_plain(item), "pinned": item.kept == shelf.PINNED} for item in items]
        disk = {"path": place.path, "free_mib": place.free_mib}
        render.print_json({"home": settings.home, "hf_home": settings.hf_home, "disk": disk, "caches": known,
                           "runs": listed})  # fmt: skip
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("KIND", "NAME", "SIZE", "LAST USED", "NOTE"):
        table.add_column(column, no_wrap=column != "NOTE", overflow="fold")
    for item in items:
        used = f"{render.span(max(0.0, time.time() - item.used))} ago" if item.used else "never"
        table.add_row(item.kind, key(item), render.mib(item.mib), used, item.kept)
    for run in listed:
        table.add_row("run", run["job"], render.mib(run["mib"]), "", _told(run))
    console = render.console()
    console.print(table)
    total = sum(item.mib for item in items) + sum(run["mib"] for run in listed)
    console.print(f"{render.mib(total)} in all; {render.mib(place.free_mib)} free on {place.path}.")
    for path, mib, command in clutter.found(clutter.home()):
        console.print(f"On the system disk: {path} {render.mib(mib)}; `{command}` empties it.")


@cache.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--whole", is_flag=True, help="Of a run also its last verified checkpoint, its log and all else.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rm(names: Sequence[str], whole: bool, yes: bool, as_json: bool) -> None:
    """Remove caches, or what a run left: all but its last verified checkpoint and its log.

    \b
      pi0q cache rm lerobot/pi0_base            fetched again when a job needs it
      pi0q cache rm datasets/you/grab_box       a dataset, where a model has the same name
      pi0q cache rm inductor triton             compiled kernels: the next compile takes its 10 to 30 minutes again
      pi0q cache rm 3f2a                        a run, by its job's ID or name
      pi0q cache rm 3f2a --whole                with its last verified checkpoint
    """
    settings = all_settings.load()
    items, runs = shelf.everything(settings), list(leftovers.runs(settings))
    going = [_going(name, items, runs, settings, whole=whole) for name in dict.fromkeys(names)]
    if not as_json or not yes:
        for one in going:
            click.echo(f"{one.what}: {render.mib(one.mib)}", err=as_json)
    if not yes and not _sure():
        raise UsageError("Nothing was removed.")
    removed, failed = [], False
    for one in going:
        try:
            removed.append({"what": one.what, "mib": one.act()})
        except (shelf.Busy, OSError) as error:
            failed = True
            click.echo(f"pi0q: {error}; it was left as it is.", err=True)
    freed = sum(int(str(one["mib"])) for one in removed)
    if as_json:
        render.print_json({"removed": removed, "freed_mib": freed})
    else:
        click.echo(f"{render.mib(freed)} came free; {render.mib(probe.disk(settings.home).free_mib)} are free now.")
    sys.exit(1 if failed else 0)


@cache.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pin(names: Sequence[str], as_json: bool) -> None:
    """Keep caches, whatever room a job needs."""
    _pin(names, True, as_json)


@cache.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def unpin(names: Sequence[str], as_json: bool) -> None:
    """Keep caches no longer."""
    _pin(names, False, as_json)


def _pin(names: Sequence[str], keep: bool, as_json: bool) -> None:
    settings = all_settings.load()
    items = shelf.everything(settings)
    chosen = [_item(name, items) for name in dict.fromkeys(names)]
    for item in chosen:
        uses.pin(*shelf.mark(item, settings), keep)
    if as_json:
        render.print_json([{"name": key(item), "pinned": keep} for item in chosen])
        return
    for item in chosen:
        click.echo(f"{key(item)} stays until `pi0q cache unpin {key(item)}`." if keep else f"{key(item)} may go again.")


def _sure() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Say --yes to remove this; nothing was removed.")
    return click.confirm("Remove this?", err=True)


# -- what a name means ----------------------------------------------------------------------------------


def _item(name: str, items: Sequence[Item]) -> Item:
    found = [item for item in items if key(item) == name] or [item for item in items if item.name == name]
    if not found:
        raise NotFound(f"There is no cache {name} on this box; nothing was changed. `pi0q cache ls` lists them.")
    return found[0]


def _going(name: str, items: Sequence[Item], runs: Sequence[Run], settings: Settings, *, whole: bool) -> Going:
    """What is to be removed. Raises Pi0qError with nothing done."""
    if any(name in (key(item), item.name) for item in items):
        item = _item(name, items)
        if item.kept in (shelf.PINNED, shelf.IN_USE):
            cure = f"`pi0q cache unpin {name}` first" if item.kept == shelf.PINNED else "a run here needs it"
            raise UsageError(f"{name} is {item.kept}: {cure}. Nothing was removed.")
        return Going(what=item.what, mib=item.mib, act=partial(shelf.remove, item, settings))
    meant = [run for run in runs if run.job_id == name or run.name == name]
    meant = meant or [run for run in runs if run.job_id.startswith(name)]
    if len(meant) != 1:
        many = f"{len(meant)} runs here are called {name}: give the job's ID" if meant else f"There is no {name} here"
        raise NotFound(f"{many}. Nothing was removed; `pi0q cache ls` lists what there is.")
    return _of_run(meant[0], whole=whole)


def _of_run(run: Run, *, whole: bool) -> Going:
    state = _states([run]).get(run.job_id)
    if run.live or state not in (None, *OVER):
        raise UsageError(
            f"The job {run.job_id} is {state or 'at work'}: it goes on from what lies here. Nothing was removed.\n"
            f"`pi0q cancel {run.job_id}` ends it for good."
        )
    if state is None:
        raise UsageError(
            f"Whether the job {run.job_id} has ended can't be told: the queue does not answer, and this box's own "
            "notes do not say. Nothing was removed."
        )
    paths = [run.directory.path] if whole else run.older
    if not paths:
        raise UsageError(
            f"Of the run {run.job_id} there is nothing but what may be needed: {_last(run)}. Nothing was removed.\n"
            f"`pi0q cache rm {run.job_id} --whole` removes all of it."
        )
    rest = "WITH " if whole else "all but "
    lost = f", and with it what is not sent yet ({', '.join(run.unsent)})" if whole and run.unsent else ""
    return Going(
        what=f"the run {run.job_id} ({run.name or 'no name known'}, {state}), {rest}{_last(run)}{lost}",
        mib=sum(map(shelf.size_mib, paths)),
        act=partial(leftovers.remove, run, paths),
    )


def _last(run: Run) -> str:
    return f"its last verified checkpoint, step {run.verified[-1][0]}" if run.verified else "no verified checkpoint"


def _states(runs: Sequence[Run]) -> dict[str, str]:
    """How the jobs of these runs stand: as the queue says, else as this box noted at their end."""
    known = {run.job_id: run.ended.value for run in runs if run.ended}
    try:
        store = open_store()
        for run in runs:
            try:
                known[run.job_id] = store.get(run.job_id).state.value
            except NotFound:
                known.setdefault(run.job_id, FORGOTTEN)
    except (redis.RedisError, Pi0qError):
        pass
    return known


# -- how it is shown ------------------------------------------------------------------------------------


def _plain(item: Item) -> dict[str, Any]:
    return {"kind": item.kind, "name": key(item), "mib": item.mib, "used": item.used or None, "kept": item.kept,
            "path": item.path}  # fmt: skip


def _run(run: Run, state: str | None) -> dict[str, Any]:
    return {
        "job": run.job_id,
        "name": run.name,
        "state": state,
        "mib": shelf.size_mib(run.directory.path),
        "older_mib": sum(map(shelf.size_mib, run.older)),
        "replaced_mib": sum(map(shelf.size_mib, run.useless)),
        "last_verified_step": run.verified[-1][0] if run.verified else None,
        "unsent": run.unsent,
        "path": run.directory.path,
    }


def _told(run: dict[str, Any]) -> str:
    step = run["last_verified_step"]
    parts = [run["name"] or "", run["state"] or "state unknown"]
    parts.append("no verified checkpoint" if step is None else f"verified: step {step}")
    parts += [f"{one} not done yet" for one in run["unsent"]]
    if run["older_mib"] and run["state"] in OVER:
        parts.append(f"`pi0q cache rm` frees {render.mib(run['older_mib'])} of it")
    return " · ".join(filter(None, parts))
