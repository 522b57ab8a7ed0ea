"""`pi0q show`."""

from __future__ import annotations

import click

from pi0q.queue import render
from pi0q.queue.verbs.common import open_store


@click.command()
@click.argument("job", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(job: str, as_json: bool) -> None:
    """All that is known of one job, with its history."""
    store = open_store()
    record = store.get(store.resolve(job))
    if as_json:
        render.print_json(record.to_json())
        return
    out = render.console()
    out.print(render.details(record, store.now_ms(), waits=store.waits(record)))
    out.print()
    out.print(render.history(record))
