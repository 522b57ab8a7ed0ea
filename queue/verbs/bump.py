"""`pi0q bump`."""

from __future__ import annotations

import click

from pi0q.jobs.state import ENDED, State
from pi0q.queue import render
from pi0q.queue.verbs.common import open_store, user

PRIORITIES = ("low", "normal", "high", "urgent")


@click.command()
@click.argument("job", metavar="ID")
@click.option("--priority", type=click.Choice(PRIORITIES), required=True, help="Its new priority.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bump(job: str, priority: str, as_json: bool) -> None:
    """Give a job another priority. No running job is stopped for it."""
    from pi0q.jobs.spec import Priority

    store = open_store()
    before = store.get(store.resolve(job))
    store.bump(before.id, Priority(priority), text=f"{user()} made it {priority} (was {before.priority})")
    after = store.get(before.id)
    if as_json:
        render.print_json({"id": after.id, "state": after.state.value, "priority": after.priority})
    elif before.state in ENDED:
        click.echo(f"{after.name} has ended ({after.state}); nothing was changed.")
    elif before.priority == priority:
        click.echo(f"{after.name} is {priority} already; nothing was changed.")
    elif after.state is State.QUEUED:
        click.echo(f"{after.name} is {priority} now, behind those that were {priority} before it.")
    else:
        click.echo(f"{after.name} is {priority} now; that counts whenever it waits in the queue again.")
