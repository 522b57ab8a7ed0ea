"""`pi0q why`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from pi0q.jobs.amounts import gib
from pi0q.jobs.estimates.disk import table
from pi0q.queue import box_status, job_text, place_lookup, plain_table, settings, wait_reasons
from pi0q.queue.commands.common import JOB, open_reader
from pi0q.queue.wait_reasons import NAMED, Place, Why


@click.command(name="why")
@click.argument("job", metavar="ID", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(job: str, as_json: bool) -> None:
    """Why a job is where it is: what it needs, what each box lacks for it, what would help.

    Of a waiting job: what it takes of GPU and disk thing by thing, where that would go on each box, what is there
    already, which jobs come before it. Of any other: why it runs, ended or stopped, and what to do.
    """
    store = open_reader()
    record = store.get(store.resolve(job))
    silent = settings.load().timing.silent
    boxes = [{**box, "status": box_status.status(box, silent)} for box in store.boxes(about=record.id)]
    waits = box_status.waits(store, record, silent, boxes)
    place = place_lookup.place_of(store, record, boxes, silent)
    answer = wait_reasons.explain(record, boxes, place, waits=waits, now_ms=store.now_ms())
    if as_json:
        job_text.print_json(answer.to_json())
        return
    width = None
    if sys.stdout.isatty():
        import shutil

        width = shutil.get_terminal_size().columns
    click.echo("\n".join(part for line in lines(answer) for part in plain_table.wrapped(line, width)))


def lines(answer: Why) -> Iterator[str]:
    """Return the answer as a person reads it."""
    yield f"{answer.name}  {answer.id}  {answer.state}"
    yield from (f"  {line}" for line in answer.why)
    if answer.cures:
        yield "\nwhat would help"
        yield from (f"  {line}" for line in answer.cures)
    if answer.places:
        yield "\nboxes"
        for place in answer.places:
            yield from _place(place)
    if answer.before:
        more = len(answer.before) - NAMED
        yield "\nbefore it in the queue"
        yield from (f"  {line}" for line in answer.before[:NAMED])
        if more > 0:
            yield f"  and {more} more"
    yield "\nneeds"
    yield from (f"  {line}" for line in answer.reckoned or (job_text.wanted(answer.needs),))
    if answer.disk:
        stated = "stated in its file; reckoned it would be:" if answer.disk["stated"] else "that is:"
        yield f"  disk {gib(answer.needs['disk_mib'])}, {stated}"
        yield from (f"    {line}" for line in table(answer.disk["items"]))


def _place(place: Place) -> Iterator[str]:
    yield f"  {place.box}  {place.status}"
    yield from (f"    {line}" for line in place.lacks)
    if place.has:
        yield f"    is there already: {', '.join(place.has)}"
    if place.disk_mib is not None:
        to = f", to {', '.join(place.goes)}" if place.goes else ""
        yield f"    still to come: {gib(place.disk_mib)} of disk{to}; {gib(place.free_mib)} are free"
