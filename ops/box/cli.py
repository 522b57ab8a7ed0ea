"""`pi0q box`: set up this machine as a box, start, stop and show it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.box import idle as idle_options
from pi0q.ops.box.keep_on import keep_on
from pi0q.ops.box.price import price
from pi0q.ops.checks.finding import Status
from pi0q.ops.machine import Machine
from pi0q.queue import job_text
from pi0q.queue import settings as all_settings

if TYPE_CHECKING:
    from pi0q.ops.box.plan import Plan
    from pi0q.ops.box.setup import Done

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def box() -> None:
    """Make this machine a box that starts its worker by itself: AutoDL, systemd, or neither."""


box.add_command(price)
box.add_command(keep_on)


@box.command()
@click.option("--check", is_flag=True, help="Only list what is missing; exit code 1 if anything is.")
@click.option("--tunnel", metavar="USER@HOST", help="Keep an ssh tunnel to the queue's server open, by a key.")
@click.option("--reverse", is_flag=True, help="With --tunnel: the server runs here, and HOST is to reach it.")
@click.option("--remove", is_flag=True, help="Undo the setup; runs, checkpoints and caches stay.")
@idle_options.options
@_JSON
def setup(check: bool, tunnel: str | None, reverse: bool, remove: bool, as_json: bool, **idle: str | None) -> None:
    """Make this machine a box: settings, caches on the data disk, the token, a start at boot, the worker.

    \b
      PI0Q_REDIS_URL='rediss://USER:PASSWORD@HOST:PORT/0' pi0q box setup
      PI0Q_REDIS_URL='redis://USER:PASSWORD@127.0.0.1:6389/0' pi0q box setup --tunnel me@server
      pi0q box setup --idle-after 20min     it switches itself off when nothing needs it

    Every PI0Q_… of this shell is stored for the worker, in a file that only you can read; so are the Hub's token and
    WANDB_API_KEY. What is in place stays as it is: run it as often as you like.
    """
    from pi0q.ops.box import setup as box_setup
    from pi0q.ops.box import tunnel as tunnels

    if check and remove:
        raise click.UsageError("--check and --remove exclude each other.")
    chosen = idle_options.values(idle)
    if not remove:
        box_setup.require()
    made = box_setup.plan(Machine(), removing=remove)
    if chosen and not remove:
        settings = idle_options.with_values(made.settings, chosen)
        made = replace(made, settings=settings, values={**made.values, **chosen})
    if reverse and not tunnel:
        raise click.UsageError("--reverse goes with --tunnel USER@HOST.")
    if tunnel and not remove:
        made = replace(made, tunnel=tunnels.parse(tunnel, made.settings.redis_url, reverse=reverse))
    if remove:
        done = _print_steps(box_setup.remove(made), as_json=as_json)
        sys.exit(1 if any(one.status == "failed" for one in done) else 0)
    done = _print_steps(box_setup.check(made) if check else box_setup.prepare(made), as_json=as_json)
    bad = any(one.status in ("missing", "failed") for one in done)
    if not as_json:
        broken = _print_unrepairable(made)
        if not check and not bad:
            click.echo(box_setup.NOT_YET if broken else box_setup.NEXT)
    sys.exit(1 if bad else 0)


def _print_steps(steps: Iterable[Done], *, as_json: bool) -> list[Done]:
    """Print each step's result as soon as it is there; return all of them."""
    done = []
    for one in steps:
        done.append(one)
        if not as_json:
            click.echo(f"{one.status:<8}{one.name:<15}{one.detail}".rstrip())
    if as_json:
        job_text.print_json({"steps": [asdict(one) for one in done]})
    return done


def _print_unrepairable(made: Plan) -> bool:
    """Print the faults that only a person can fix; return whether one of them keeps the box from taking jobs."""
    from pi0q.ops.box.setup import unrepairable

    findings = unrepairable(made)
    for finding in findings:
        click.echo(f"{finding.status:<8}{finding.name:<15}{finding.detail}\n        → {finding.cure}")
    return any(finding.status is Status.BROKEN for finding in findings)


@box.command()
def start() -> None:
    """Start this box's worker in the background, unless it runs; boot hooks call this."""
    from pi0q.ops.box import autostart

    settings = all_settings.load()
    if not settings.home.is_dir() or "redis_url" not in settings.sources:
        raise Pi0qError("This machine is not set up as a box; nothing was started.\nFix: pi0q box setup")
    click.echo(autostart.start(Machine(), settings.home))


@box.command()
def stop() -> None:
    """Stop this box's worker until the next start; running trainings continue."""
    from pi0q.ops.box import autostart
    from pi0q.ops.box.worker_state import WorkerState, worker_state
    from pi0q.workers.host.identity import box_name

    home = all_settings.load().home
    if autostart.stop(Machine(), home):
        click.echo("The worker is stopped; trainings continue. Start it again: pi0q box start")
    elif worker_state(Machine(), home) is WorkerState.BY_HAND:
        raise Pi0qError(
            "The worker of this machine was started by hand, in a terminal or by `pi0q up`; it goes on.\n"
            "Fix: Ctrl-C where it was started; or keep it from new jobs: pi0q drain " + box_name(all_settings.load())
        )
    else:
        click.echo("No worker was running.")


@box.command()
@_JSON
def status(as_json: bool) -> None:
    """Show whether this machine is a box, and whether its worker runs and starts with the machine."""
    from pi0q.ops.box.setup import state

    told = state(Machine(), all_settings.load())
    if as_json:
        job_text.print_json(told)
        return
    told["worker"] = told.pop("worker_state")
    for name, value in told.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):<13}{'none' if shown in (None, '') else shown}")
