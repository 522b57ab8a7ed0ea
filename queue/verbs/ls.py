"""`pi0q ls`."""

from __future__ import annotations

import click

from pi0q.queue import render
from pi0q.queue.verbs.common import open_store


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Every job, not just the living and the latest ended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(everything: bool, as_json: bool) -> None:
    """One line for each job: where it is, how far, how long still, what it left."""
    page = open_store().page(live=-1, ended=-1) if everything else open_store().page()
    if as_json:
        render.print_json([job.to_json() for job in page.jobs])
    else:
        out = render.console()
        out.print(render.table(page, width=out.width))
