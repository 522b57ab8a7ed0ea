"""`pi0q cache`: list, remove and pin what fills this box's data disk."""

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

from pi0q.jobs.errors import BadRecord, NotFound, Pi0qError, UsageError
from pi0q.jobs.state import ENDED
from pi0q.queue import job_text, render
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import open_store
from pi0q.queue.settings import Settings
from pi0q.workers.host import files, probe, usage_locks
from pi0q.workers.storage import inventory, run_garbage, tool_caches
from pi0q.workers.storage.inventory import Item, key
from pi0q.workers.storage.run_garbage import Run

#: State of a job that the queue does not know (any more).
FORGOTTEN, BROKEN = "unknown to the queue", "of a damaged record"
#: States in which no run goes on from the files here.
OVER = (*(state.value for state in ENDED), FORGOTTEN)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One thing that a user wants removed."""

    what: str
    mib: int
    act: Callable[[], int]


@click.group()
def cache() -> None:
    """List, remove or pin caches and old runs on this box.

    After claiming a job that needs the space, pi0q evicts the least recently used by itself: Hub caches that a job of
    pi0q fetched, compiled kernels, and what a later verified checkpoint has replaced. It never evicts what a job here
    uses or waits for, what is pinned, or any verified checkpoint.
    """


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List caches and runs with their sizes, in the order of eviction."""
    settings = all_settings.load()
    items, runs = inventory.everything(settings), list(run_garbage.runs(settings))
    states, place = _states(runs), probe.disk(settings.home)
    listed = [_run(run, states.get(run.job_id)) for run in runs]
    if as_json:
        known = [{**_plain(item), "pinned": item.kept == inventory.PINNED} for item in items]
        disk = {"path": place.path, "free_mib": place.free_mib}
        job_text.print_json({"home": settings.home, "hf_home": settings.hf_home, "disk": disk, "caches": known,
                           "runs": listed})  # fmt: skip
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("KIND", "NAME", "SIZE", "LAST USED", "NOTE"):
        table.add_column(column, no_wrap=column != "NOTE", overflow="fold")
    for item in items:
        used = f"{job_text.span(max(0.0, time.time() - item.used))} ago" if item.used else "never"
        table.add_row(item.kind, key(item), job_text.mib(item.mib), used, item.kept)
    for run in listed:
        table.add_row("run", run["job"], job_text.mib(run["mib"]), "", _note(run))
    console = render.console()
    console.print(table)
    total = sum(item.mib for item in items) + sum(run["mib"] for run in listed)
    console.print(f"{job_text.mib(total)} in all; {job_text.mib(place.free_mib)} free on {place.path}.")
    for path, mib, command in tool_caches.found(tool_caches.home()):
        console.print(f"On the system disk: {path} {job_text.mib(mib)}; `{command}` empties it.")


@cache.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--whole", is_flag=True, help="Remove a run completely, with its last verified checkpoint and its log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rm(names: Sequence[str], whole: bool, yes: bool, as_json: bool) -> None:
    """Remove caches, or the files of an ended run except its last verified checkpoint and its log.

    \b
      pi0q cache rm lerobot/pi0_base            downloaded again when a job needs it
      pi0q cache rm datasets/you/grab_box       a dataset that has the same name as a model
      pi0q cache rm inductor triton             compiled kernels: the next compile takes its 10 to 30 minutes again
      pi0q cache rm 3f2a                        a run, by its job's ID or name
      pi0q cache rm 3f2a --whole                with its last verified checkpoint
    """
    settings = all_settings.load()
    items, runs = inventory.everything(settings), list(run_garbage.runs(settings))
    removals = [_removal(name, items, runs, settings, whole=whole) for name in dict.fromkeys(names)]
    if not as_json or not yes:
        for one in removals:
            click.echo(f"{one.what}: {job_text.mib(one.mib)}", err=as_json)
    if not yes and not _confirmed():
        raise UsageError("Nothing was removed.")
    removed, failed = [], False
    for one in removals:
        try:
            removed.append({"what": one.what, "mib": one.act()})
        except (inventory.Busy, OSError) as error:
            failed = True
            click.echo(f"pi0q: {error}; not removed.", err=True)
    freed = sum(int(str(one["mib"])) for one in removed)
    if as_json:
        job_text.print_json({"removed": removed, "freed_mib": freed})
    else:
        click.echo(f"Freed {job_text.mib(freed)}; {job_text.mib(probe.disk(settings.home).free_mib)} available.")
    sys.exit(1 if failed else 0)


@cache.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pin(names: Sequence[str], as_json: bool) -> None:
    """Pin caches: pi0q does not evict them."""
    _pin(names, True, as_json)


@cache.command()
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def unpin(names: Sequence[str], as_json: bool) -> None:
    """Unpin caches."""
    _pin(names, False, as_json)


def _pin(names: Sequence[str], keep: bool, as_json: bool) -> None:
    settings = all_settings.load()
    items = inventory.everything(settings)
    chosen = [_item(name, items) for name in dict.fromkeys(names)]
    for item in chosen:
        usage_locks.pin(*inventory.mark(item, settings), keep)
    if as_json:
        job_text.print_json([{"name": key(item), "pinned": keep} for item in chosen])
        return
    for item in chosen:
        name = key(item)
        click.echo(f"Pinned {name} (undo: `pi0q cache unpin {name}`)." if keep else f"Unpinned {name}.")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Nothing was removed. Fix: add --yes to confirm.")
    return click.confirm("Remove this?", err=True)


# -- what a name means ----------------------------------------------------------------------------------


def _item(name: str, items: Sequence[Item]) -> Item:
    found = [item for item in items if key(item) == name] or [item for item in items if item.name == name]
    if not found:
        raise NotFound(f"There is no cache {name} on this box; nothing was changed. `pi0q cache ls` lists them.")
    return found[0]


def _removal(name: str, items: Sequence[Item], runs: Sequence[Run], settings: Settings, *, whole: bool) -> Removal:
    """Return what to remove for a name. Raises Pi0qError; nothing was removed then."""
    if any(name in (key(item), item.name) for item in items):
        item = _item(name, items)
        if item.kept in (inventory.PINNED, inventory.IN_USE):
            pinned = item.kept == inventory.PINNED
            fix = f"Fix: `pi0q cache unpin {name}` first." if pinned else "A run on this box needs it."
            raise UsageError(f"{name} is {item.kept}. Nothing was removed. {fix}")
        return Removal(what=item.what, mib=item.mib, act=partial(inventory.remove, item, settings))
    meant = [run for run in runs if run.job_id == name or run.name == name]
    meant = meant or [run for run in runs if name and run.job_id.startswith(name)]
    if len(meant) != 1:
        many = f"{len(meant)} runs here are called {name}: give the job's ID" if meant else f"There is no {name} here"
        raise NotFound(f"{many}. Nothing was removed; `pi0q cache ls` lists what there is.")
    return _of_run(meant[0], whole=whole)


def _of_run(run: Run, *, whole: bool) -> Removal:
    state = _states([run]).get(run.job_id)
    if run.live or state not in (None, *OVER):
        raise UsageError(
            f"Job {run.job_id} is {state or 'active'} and continues from these files. Nothing was removed.\n"
            f"Fix: end it first: `pi0q cancel {run.job_id}`."
        )
    if state is None:
        raise UsageError(
            f"Could not find out whether job {run.job_id} has ended: the queue does not answer, and this box's ledger "
            "does not say. Nothing was removed. Fix: try again when the queue can be reached (`pi0q doctor`)."
        )
    if starter := _starter(run):
        raise UsageError(
            f"Job {starter} starts from a checkpoint of run {run.job_id} and has not ended. Nothing was removed.\n"
            f"Fix: let it end, or end it first: `pi0q cancel {starter}`."
        )
    paths = [run.directory.path] if whole else run.removable
    if not paths:
        raise UsageError(
            f"Run {run.job_id} has only files that may still be needed: {_last(run)}. Nothing was removed.\n"
            f"Fix: `pi0q cache rm {run.job_id} --whole` removes all of it."
        )
    rest = "WITH " if whole else "all but "
    lost = f", including what is not sent yet ({', '.join(run.unsent)})" if whole and run.unsent else ""
    return Removal(
        what=f"the run {run.job_id} ({run.name or 'no name known'}, {state}), {rest}{_last(run)}{lost}",
        mib=sum(map(files.size_mib, paths)),
        act=partial(run_garbage.remove, run, paths),
    )


def _last(run: Run) -> str:
    return f"its last verified checkpoint, step {run.verified[-1][0]}" if run.verified else "no verified checkpoint"


def _starter(run: Run) -> str:
    """Return a job that starts from a checkpoint of this run; "" if none does, or the queue can't say."""
    try:
        return next(iter(open_store().get(run.job_id).starters), "")
    except (redis.RedisError, Pi0qError):
        return ""


def _states(runs: Sequence[Run]) -> dict[str, str]:
    """Return the states of these runs' jobs: from the queue, else from this box's ledgers."""
    known = {run.job_id: run.ended.value for run in runs if run.ended}
    try:
        store = open_store()
        for run in runs:
            try:
                known[run.job_id] = store.get(run.job_id).state.value
            except NotFound:
                known.setdefault(run.job_id, FORGOTTEN)
            except BadRecord:
                known.setdefault(run.job_id, BROKEN)
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
        "mib": files.size_mib(run.directory.path),
        "older_mib": sum(map(files.size_mib, run.removable)),
        "replaced_mib": sum(map(files.size_mib, run.garbage)),
        "last_verified_step": run.verified[-1][0] if run.verified else None,
        "unsent": run.unsent,
        "path": run.directory.path,
    }


def _note(run: dict[str, Any]) -> str:
    step = run["last_verified_step"]
    parts = [run["name"] or "", run["state"] or "state unknown"]
    parts.append("no verified checkpoint" if step is None else f"verified: step {step}")
    parts += [f"{one} not done yet" for one in run["unsent"]]
    if run["older_mib"] and run["state"] in OVER:
        parts.append(f"`pi0q cache rm` frees {job_text.mib(run['older_mib'])} of it")
    return " · ".join(filter(None, parts))
