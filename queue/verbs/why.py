"""`pi0q why`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from pi0q.jobs.disk import gib, table
from pi0q.queue import render, settings, why
from pi0q.queue.verbs.boxes import status
from pi0q.queue.verbs.common import open_store
from pi0q.queue.why import NAMED, Place, Why


@click.command(name="why")
@click.argument("job", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(job: str, as_json: bool) -> None:
    """Why a job is where it is: what it needs, what each box lacks for it, what would help.

    Of a waiting job: what it takes of GPU and disk thing by thing, where that would go on each box, what is there
    already, which jobs come before it. Of any other: why it runs, ended or stopped, and what to do.
    """
    store = open_store()
    record = store.get(store.resolve(job))
    silent = settings.load().timing.silent
    boxes = [{**box, "status": status(box, silent)} for box in store.boxes()]
    told = why.explain(record, boxes, store.waiting(), waits=store.waits(record), now_ms=store.now_ms())
    if as_json:
        render.print_json(told.to_json())
        return
    click.echo("\n".join(lines(told)))


def lines(told: Why) -> Iterator[str]:
    """The answer for a person."""
    yield f"{told.name}  {told.id}  {told.state}"
    yield from (f"  {line}" for line in told.why)
    if told.cures:
        yield "\nwhat would help"
        yield from (f"  {line}" for line in told.cures)
    if told.places:
        yield "\nboxes"
        for place in told.places:
            yield from _place(place)
    if told.before:
        more = len(told.before) - NAMED
        yield "\nbefore it in the queue"
        yield from (f"  {line}" for line in told.before[:NAMED])
        if more > 0:
            yield f"  and {more} more"
    yield "\nneeds"
    yield from (f"  {line}" for line in told.reckoned or (render.wanted(told.needs),))
    if told.disk:
        stated = "stated in its file; reckoned it would be:" if told.disk["stated"] else "that is:"
        yield f"  disk {gib(told.needs['disk_mib'])}, {stated}"
        yield from (f"    {line}" for line in table(told.disk["items"]))


def _place(place: Place) -> Iterator[str]:
    yield f"  {place.box}  {place.status}"
    yield from (f"    {line}" for line in place.lacks)
    if place.has:
        yield f"    is there already: {', '.join(place.has)}"
    if place.disk_mib is not None:
        to = f", to {', '.join(place.goes)}" if place.goes else ""
        yield f"    still to come: {gib(place.disk_mib)} of disk{to}; {gib(place.free_mib)} are free"
