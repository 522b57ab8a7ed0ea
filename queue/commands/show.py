"""`pi0q show`."""

from __future__ import annotations

import sys

import click

from pi0q.jobs import cost
from pi0q.queue import job_text, place_lookup, settings
from pi0q.queue.commands.common import JOB, open_reader


@click.command()
@click.argument("job", metavar="ID", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(job: str, as_json: bool) -> None:
    """Show everything about one job, with its history."""
    store = open_reader()
    record = store.get(store.resolve(job))
    if as_json:
        job_text.print_json({**record.to_json(), "cost": cost.total(store.job_holds(record.id)).to_json()})
        return
    spent = cost.words(cost.total(store.job_holds(record.id)))
    waits = place_lookup.told(store, record, settings.load().timing.silent)
    now_ms = store.now_ms()
    if not sys.stdout.isatty():
        from pi0q.queue import job_details

        click.echo("\n".join(job_details.lines(record, now_ms, waits, spent)))
        return
    from pi0q.queue import render

    out = render.console()
    out.print(render.details(record, now_ms, waits=waits, spent=spent))
    out.print()
    out.print(render.history(record))
