"""`pi0q up` and `pi0q flower`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from pi0q.queue import settings

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--port", type=_PORT, help="Port of the queue's server; 0: any free.  [default: 6389 or the next free]")
@click.option("--flower-port", type=_PORT, help="Port of Flower; 0: any free.  [default: 5555 or the next free]")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Instead of PI0Q_HOME.")
@click.option("--slots", type=click.IntRange(1), help="Jobs that the worker runs at a time.")
@click.option("--no-worker", is_flag=True, help="Only keep the queue here; the boxes are other machines.")
@click.option("--no-flower", is_flag=True, help="Without the web page.")
def up(
    port: int | None,
    flower_port: int | None,
    home: Path | None,
    slots: int | None,
    no_worker: bool,
    no_flower: bool,
) -> None:
    """Server, worker and Flower on this machine in one go, until Ctrl-C.

    All of it listens on this machine alone and asks for a password that is made at the first start. Jobs
    and records are kept between starts. A part that dies is started again. A second `pi0q up` only says how
    to reach the first.
    """
    from pi0q.ops import stack

    env = {**os.environ, "PI0Q_HOME": str(home)} if home else os.environ
    wanted = stack.Wanted(port=port, flower_port=flower_port, slots=slots, worker=not no_worker, flower=not no_flower)
    stack.run(settings.load(env), wanted, _say, stack.stop_on_signals())


def _say(text: str) -> None:
    """What it holds up does not fall with its terminal, or the full disk below a log."""
    with suppress(OSError):
        click.echo(text)


@click.command()
@click.option("--port", type=_PORT, default=5555, show_default=True, help="Port to listen on; 0: any free.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--user", default="pi0q", show_default=True, help="Who may come in.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="One line; it is made if there is none.  [default: PI0Q_HOME/flower.password]",
)
@click.option("--read-only", is_flag=True, help="No buttons: look, but change nothing.")
def flower(port: int, address: str, user: str, password_file: Path | None, read_only: bool) -> None:
    """The web page of the queue: jobs, boxes, history. Terminate and Revoke there cancel a job for good.

    It listens on this machine alone; from another one use `ssh -L 5555:127.0.0.1:5555 USER@HERE`.
    Everything asks for the password but /metrics (for Prometheus) and /healthcheck, which Flower leaves
    open to whoever reaches the port.
    """
    from pi0q.ops import flower as web

    chosen = settings.load()
    password = web.password(chosen.home, password_file)
    door = web.Door(port=port, address=address, user=user, password=password, read_only=read_only)
    web.serve(chosen, door, click.echo)
    sys.stdout.flush()
    # Threads of Flower's that were asking a server that has gone ask it for ever, and would keep the process.
    os._exit(0)
