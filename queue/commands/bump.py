"""`pi0q bump`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, State
from pi0q.queue import job_text
from pi0q.queue.commands.common import JOB, open_store, resolve_all
from pi0q.queue.current_user import user

if TYPE_CHECKING:
    from pi0q.jobs.spec import Priority
    from pi0q.queue.store import Store

PRIORITIES = ("low", "normal", "high", "urgent")


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="ID…", type=JOB)
@click.option("--priority", type=click.Choice(PRIORITIES), required=True, help="Its new priority.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bump(jobs: tuple[str, ...], priority: str, as_json: bool) -> None:
    """Give jobs another priority. No running job is stopped for it.

    Exits with 1 where one of them has ended.
    """
    from pi0q.jobs.spec import Priority

    store, answers, ended = open_store(), [], False
    for job_id in resolve_all(store, jobs):
        before = store.get(job_id)
        store.bump(job_id, Priority(priority), text=f"{user()} made it {priority} (was {before.priority})")
        trials = _bump_trials(store, before, Priority(priority))
        after = store.get(job_id)
        ended = ended or before.state in ENDED
        answers.append({"id": after.id, "state": after.state.value, "priority": after.priority})
        if not as_json:
            click.echo(f"{_said(before, after, priority)}{trials}")
    if as_json:
        job_text.print_json(answers if len(answers) > 1 else answers[0])
    if ended:
        sys.exit(1)


def _bump_trials(store: Store, job: Record, priority: Priority) -> str:
    """Give the trials of a sweep the priority; return what is said of that."""
    if not job.trials or job.state in ENDED:
        return ""
    from pi0q.queue import sweeps

    text = f"{user()} made it {priority}, with its sweep"
    return sweeps.act(store, job, lambda trial: store.bump(trial.id, priority, text=text))


def _said(before: Record, after: Record, priority: str) -> str:
    if before.state in ENDED:
        return f"{after.name} has ended ({after.state}); nothing was changed."
    if before.priority == priority:
        return f"{after.name} is {priority} already; nothing was changed."
    if after.state is State.QUEUED:
        return f"{after.name} is {priority} now, behind those that were {priority} before it."
    return f"{after.name} is {priority} now; that counts whenever it waits in the queue again."
