"""`pi0q search`."""

from __future__ import annotations

import logging
import sys

import click

from pi0q.queue import settings


@click.command()
def search() -> None:
    """Propose trials of sweeps with `kind: tpe` until Ctrl-C. `pi0q up` does it by itself where Optuna is installed.

    One process proposes at a time; a second one waits. What was proposed is kept in PI0Q_HOME/search.
    """
    from pi0q.ops.search.searcher import Searcher
    from pi0q.ops.supervisor import stop_on_signals
    from pi0q.queue.connection import connect
    from pi0q.queue.store import Store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    chosen = settings.load()
    settings.make_home(chosen)
    click.echo("Sweeps with `kind: tpe` get their trials from here. Ctrl-C stops it; the jobs keep running.")
    Searcher(Store(connect(chosen), chosen.prefix), chosen.home).run(stop_on_signals())
