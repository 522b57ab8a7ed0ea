"""`pi0q ls`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from typing import Any

import click

from pi0q.jobs.state import ENDED
from pi0q.queue import job_list, job_text, settings, wait_notes
from pi0q.queue.commands.common import open_reader
from pi0q.queue.job_list import SORTS, Page, Selection
from pi0q.queue.place_lookup import in_turn
from pi0q.queue.store_reads import StoreReads

#: Jobs up to which a terminal gets colours; more of them are printed plain, as into a pipe, in a quarter of the time.
MOST_COLOURED = 500


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Every job, not just the living and the latest ended.")
@click.option(
    "--state", metavar="STATES", default="", help="running,queued,held,failed …; active, live and ended are groups."
)
@click.option("--box", metavar="GLOB", default="", help="Jobs whose box is, or was last, one of these: 'autodl-*'.")
@click.option("--name", metavar="GLOB", default="", help="Jobs of these names: 'grab_*'.")
@click.option("--user", metavar="GLOB", default="", help="Jobs that these users submitted: ada, 'ada@*'.")
@click.option("--since", metavar="SPAN", default="", help="Jobs of which anything changed since: 30min, 2h, 3d.")
@click.option("--sort", type=click.Choice(SORTS), help="Another order than running, queued, held, ended.")
@click.option("-n", "--number", type=click.IntRange(min=1), help="The first N of them.")
@click.option("-q", "--quiet", is_flag=True, help="Ids alone, one a line: pi0q cancel $(pi0q ls -q --name 'sweep_*').")
@click.option("-x", "--children", is_flag=True, help="The trials of each sweep below its line.")
@click.option("-w", "--wide", is_flag=True, help="Cut no line to the terminal's width.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(**options: Any) -> None:
    """One line for each job: where it is, how far, how long still, what it left.

    Running jobs come first, then the queue in the order in which boxes take it, held jobs, and the latest ends.
    """
    store, silent_seconds = open_reader(), settings.load().timing.silent
    page, boxes = selected(store, options, silent_seconds)
    if options["as_json"]:
        jobs = [{**job.listed_json(), **_place(page, job.id)} for job in page.jobs]
        job_text.print_json(jobs + [error.to_json() for error in page.broken])
        return
    if options["quiet"]:
        for job in page.jobs:
            click.echo(job.id)
        return
    terminal = sys.stdout.isatty()
    waits = {**wait_notes.notes(page, boxes, silent_seconds), **sweep_notes(page)}
    if terminal and len(page.jobs) <= MOST_COLOURED and not options["wide"]:
        from pi0q.queue import render

        out = render.console()
        out.print(render.table(page, waits, width=out.width))
        return
    width = shutil.get_terminal_size().columns if terminal and not options["wide"] else None
    click.echo("\n".join(job_text.listed(page, waits, width=width)))


def _place(page: Page, job_id: str) -> dict[str, int]:
    """Return how many jobs come before one in the queue, unless it is far behind, and when it may start, if known."""
    place = {"place": page.places[job_id]} if job_id in page.places else {}
    return place | ({"starts_in_seconds": round(page.starts[job_id])} if job_id in page.starts else {})


def selected(store: StoreReads, options: dict[str, Any], silent_seconds: float) -> tuple[Page, list[dict[str, str]]]:
    """Return the jobs that the options ask for, and the boxes where jobs are queued.

    Raises UsageError for a state or a duration that is none.
    """
    chosen = Selection(
        states=job_list.parse_states(options["state"]),
        box=options["box"],
        name=options["name"],
        user=options["user"],
        since_ms=job_list.parse_since(options["since"], store.now_ms()) if options["since"] else 0,
    )
    if chosen.selects_all and not options["everything"]:
        page = store.page()
    else:
        page = store.page(live=-1, ended=-1 if chosen.wants_ended else 0)
    page, boxes = in_turn(store, page, silent_seconds)
    if chosen.selects_all and not options["sort"]:
        page = arranged(page, children=options["children"])
    return page.narrowed(chosen, sort=options["sort"], number=options["number"]), boxes


def arranged(page: Page, *, children: bool) -> Page:
    """Return the page with the trials of sweeps folded, or each below its sweep."""
    if not any(job.trials or job.sweep for job in page.jobs):
        return page
    from pi0q.queue import sweeps

    running = sweeps.running(page)
    page = sweeps.unfolded(page) if children else sweeps.folded(page)
    return replace(page, running_trials=running)


def sweep_notes(page: Page) -> dict[str, str]:
    """Return how each sweep of a page stands, by id: `best loss 0.31 = seed 7, 3 run`."""
    return {
        job.id: job.trials.note(page.running_trials.get(job.id, 0))
        for job in page.jobs
        if job.trials and job.state not in ENDED and not job.held
    }
