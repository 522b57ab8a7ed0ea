"""`pi0q cancel`."""

from __future__ import annotations

import json

import click

from pi0q.jobs.state import ENDED, State
from pi0q.queue.verbs.common import open_store, user

SAID = {
    State.CANCELLED: "{name} is cancelled.",
    State.SUCCEEDED: "{name} has already succeeded; nothing was changed.",
    State.FAILED: "{name} has already failed; nothing was changed.",
}


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="ID…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cancel(jobs: tuple[str, ...], as_json: bool) -> None:
    """End a job for good, waiting or running.

    A running one is asked to stop: its box ends the whole process group and frees the GPU. What it saved stays.
    """
    store = open_store()
    ids = [store.resolve(job) for job in jobs]
    by = f"cancelled by {user()}"
    answers = []
    for job_id in ids:
        ended_before = store.get(job_id).state in ENDED
        state = store.cancel(job_id, text=by)
        answers.append({"id": job_id, "state": state.value, "already_ended": ended_before})
        if not as_json:
            said = SAID.get(state, "{name} is told to stop; `pi0q watch {id}` shows it end.")
            said = (
                "{name} was cancelled before; nothing was changed."
                if ended_before and state is State.CANCELLED
                else said
            )
            click.echo(said.format(name=store.get(job_id).name, id=job_id))
    if as_json:
        click.echo(json.dumps(answers if len(answers) > 1 else answers[0], indent=2))
