"""`pi0q box`: makes this machine a box, and holds it up."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.checks.finding import Status
from pi0q.ops.machine import Machine
from pi0q.queue import render
from pi0q.queue import settings as all_settings

if TYPE_CHECKING:
    from pi0q.ops.setup import Done
    from pi0q.ops.steps import Plan

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def box() -> None:
    """Make this machine a box that starts its worker by itself: AutoDL, systemd, or neither."""


@box.command()
@click.option("--check", is_flag=True, help="Only list what is missing; exit code 1 if anything is.")
@click.option("--remove", is_flag=True, help="Take all of it back; runs, checkpoints and caches stay.")
@_JSON
def setup(check: bool, remove: bool, as_json: bool) -> None:
    """Make this machine a box: settings, caches on the data disk, the token, a start at boot, the worker.

    \b
      PI0Q_REDIS_URL='rediss://USER:PASSWORD@HOST:PORT/0' pi0q box setup

    Every PI0Q_… of this shell is kept for the worker, in a file that only you can read; so are the Hub's token and
    WANDB_API_KEY. What is in place already stays as it is: run it as often as you like.
    """
    from pi0q.ops import setup as house

    if check and remove:
        raise click.UsageError("--check only looks and --remove takes away: choose one.")
    if not remove:
        house.require()
    made = house.plan(Machine(), removing=remove)
    if remove:
        done = _tell(house.remove(made), as_json=as_json)
        sys.exit(1 if any(one.status == "failed" for one in done) else 0)
    done = _tell(house.check(made) if check else house.prepare(made), as_json=as_json)
    bad = any(one.status in ("missing", "failed") for one in done)
    if not as_json:
        ill = _judge(made)
        if not check and not bad:
            click.echo(house.NOT_YET if ill else house.NEXT)
    sys.exit(1 if bad else 0)


def _tell(steps: Iterable[Done], *, as_json: bool) -> list[Done]:
    """Says what each step did as soon as it did it."""
    done = []
    for one in steps:
        done.append(one)
        if not as_json:
            click.echo(f"{one.status:<8}{one.name:<15}{one.detail}".rstrip())
    if as_json:
        render.print_json({"steps": [asdict(one) for one in done]})
    return done


def _judge(made: Plan) -> bool:
    """Says what only a person can put right; whether any of it keeps the box from taking jobs."""
    from pi0q.ops.setup import judge

    found = judge(made)
    for finding in found:
        click.echo(f"{finding.status:<8}{finding.name:<15}{finding.detail}\n        → {finding.cure}")
    return any(finding.status is Status.BROKEN for finding in found)


@box.command()
def start() -> None:
    """Start this box's worker in the background, unless it runs; what a boot hook calls."""
    from pi0q.ops import boot

    settings = all_settings.load()
    if not settings.home.is_dir() or "redis_url" not in settings.sources:
        raise Pi0qError("This machine is no box yet; nothing was started.\nMake it one with: pi0q box setup")
    click.echo(boot.start(Machine(), settings.home))


@box.command()
def stop() -> None:
    """Stop this box's worker until the next start; trainings that run go on."""
    from pi0q.ops import boot

    stopped = boot.stop(Machine(), all_settings.load().home)
    click.echo("The worker is stopped; trainings go on. `pi0q box start` starts it." if stopped else "Nothing ran.")


@box.command()
@_JSON
def status(as_json: bool) -> None:
    """Whether this machine is a box, its worker runs, and comes back after a restart."""
    from pi0q.ops.setup import state

    told = state(Machine(), all_settings.load())
    if as_json:
        render.print_json(told)
        return
    for name, value in told.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):<13}{'none' if shown in (None, '') else shown}")
