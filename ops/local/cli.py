"""`pi0q up` and `pi0q flower`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pi0q.jobs.errors import UsageError
from pi0q.queue import settings

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--port", type=_PORT, help="Port of the queue's server; 0: any free.  [default: 6389 or the next free]")
@click.option("--flower-port", type=_PORT, help="Port of Flower; 0: any free.  [default: 5555 or the next free]")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Instead of PI0Q_HOME.")
@click.option("--web-port", type=_PORT, help="Port of the web page; 0: any free.  [default: 5550 or the next free]")
@click.option("--slots", type=click.IntRange(1), help="Jobs that the worker runs at a time.")
@click.option("--no-worker", is_flag=True, help="Run only the queue here; the boxes are other machines.")
@click.option("--no-flower", is_flag=True, help="Without Flower.")
@click.option("--no-web", is_flag=True, help="Without the web page.")
@click.option("--web-actions", is_flag=True, help="Let the page's user `operator` cancel, hold, release and save jobs.")
@click.option("--demo", is_flag=True, help="Make a dataset of noise and a tokenizer for jobs/examples/quickstart.yaml.")
@click.option("-d", "--detach", is_flag=True, help="Run in the background; it outlives the terminal and the login.")
@click.option("--stop", is_flag=True, help="Stop the one that runs, and do not start it with the machine any more.")
@click.option(
    "--at-boot", is_flag=True, help="Run in the background now and after each start of this machine (systemd)."
)
def up(home: Path | None, detach: bool, stop: bool, at_boot: bool, **parts: Any) -> None:
    """Run server, worker, web page and Flower on this machine until Ctrl-C, or in the background.

    They listen on this machine only and ask for a password that is created at the first start. Jobs and records
    are kept between starts. A part that ends is restarted. A second `pi0q up` only says how to reach the first.

    \b
      pi0q up               until Ctrl-C
      pi0q up -d            in the background; pi0q up --stop ends it
      pi0q up --at-boot     the same, and after each start of this machine
    """
    from pi0q.ops.local import page_part, stack
    from pi0q.ops.supervisor import stop_on_signals

    if detach + stop + at_boot > 1:
        raise UsageError("-d, --stop and --at-boot are three different things: give one of them. Nothing was changed.")
    chosen = settings.load({**os.environ, "PI0Q_HOME": str(home)} if home else os.environ)
    if stop:
        _stop(chosen)
    elif detach or at_boot:
        _start_in_background(chosen, parts, at_boot=at_boot)
    else:
        options = stack.StackOptions(
            port=parts["port"],
            flower_port=parts["flower_port"],
            slots=parts["slots"],
            worker=not parts["no_worker"],
            flower=not parts["no_flower"],
            page=page_part.PageOptions(
                wanted=not parts["no_web"], port=parts["web_port"], actions=parts["web_actions"]
            ),
            demo=parts["demo"],
        )
        stack.run(chosen, options, _say, stop_on_signals())


def _start_in_background(chosen: settings.Settings, parts: Mapping[str, Any], *, at_boot: bool) -> None:
    from pi0q.ops.local import background, stack
    from pi0q.ops.machine import Machine

    words = background.words_of(parts)
    if at_boot:
        click.echo(background.enable(Machine(), chosen, words))
        return
    before = stack.is_up(chosen.home)
    facts = background.start(chosen, words)
    click.echo("pi0q is already up here; nothing was started." if before else "pi0q is up, in the background.")
    click.echo(stack.reach(chosen, facts, show_secrets=sys.stdout.isatty()))
    click.echo(f"What it says goes to {background.log_file(chosen.home)}; pi0q up --stop ends it.")


def _stop(chosen: settings.Settings) -> None:
    from pi0q.ops.local import background
    from pi0q.ops.machine import Machine

    unit = background.disable(Machine(), chosen.home)
    stopped = background.stop(chosen.home) or unit
    click.echo("Stopped; jobs and records are kept." if stopped else f"No pi0q up runs in {chosen.home}.")


def _say(text: str) -> None:
    """Print a line; a closed terminal or a full disk under a log must not stop the stack."""
    with suppress(OSError):
        click.echo(text)


@click.command()
@click.option("--port", type=_PORT, default=5555, show_default=True, help="Port to listen on; 0: any free.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--user", default="pi0q", show_default=True, help="User name of the login.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="One line; created if missing.  [default: PI0Q_HOME/flower.password]",
)
@click.option("--read-only", is_flag=True, help="Without buttons: nothing can be changed.")
def flower(port: int, address: str, user: str, password_file: Path | None, read_only: bool) -> None:
    """Serve Flower, Celery's view of the queue: tasks, workers. Terminate and Revoke there cancel a job for good.

    Everything asks for the password, /metrics (for Prometheus) and /healthcheck too.
    """
    from pi0q.ops.flower import app as web

    chosen = settings.load()
    password = web.password(chosen.home, password_file)
    options = web.WebOptions(port=port, address=address, user=user, password=password, read_only=read_only)
    web.serve(chosen, options, click.echo)
    sys.stdout.flush()
    # Flower's threads that wait for an unreachable server never end and would keep the process alive.
    os._exit(0)
