"""`pi0q cancel`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from pi0q.jobs.errors import BadRecord, NotFound, UsageError
from pi0q.jobs.state import ENDED, State
from pi0q.queue.commands.common import JOB, open_store, resolve_all
from pi0q.queue.current_user import user
from pi0q.queue.job_list import GROUPS, Selection, parse_states

if TYPE_CHECKING:
    from pi0q.jobs.record import Record
    from pi0q.queue.store import Store

#: Names of jobs that the question before a cancel of many shows.
SHOWN_NAMES = 5
SAID = {
    State.CANCELLED: "{name} is cancelled.",
    State.SUCCEEDED: "{name} has already succeeded; nothing was changed.",
    State.FAILED: "{name} has already failed; nothing was changed.",
}


@click.command()
@click.argument("jobs", nargs=-1, metavar="[ID…]", type=JOB)
@click.option(
    "--all", "everything", is_flag=True, help="All jobs that have not ended, or those of them that the next two choose."
)
@click.option("--state", metavar="STATES", default="", help="With --all: queued, held, running …")
@click.option("--name", metavar="GLOB", default="", help="With --all: jobs of these names, 'sweep_*'.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cancel(jobs: tuple[str, ...], as_json: bool, **choice: Any) -> None:
    """End a job for good, waiting or running.

    A running one is asked to stop: its box ends the whole process group and frees the GPU. What it saved stays.
    A job whose record cannot be read (`pi0q ls` shows it as broken) is removed.
    """
    store = open_store()
    if choice["everything"] == bool(jobs):
        raise UsageError("Give the IDs of jobs, or --all without any. Nothing was cancelled.")
    ids = resolve_all(store, jobs) if jobs else _chosen(store, choice, ask=not choice["yes"] and not as_json)
    answers = []
    for job_id in ids:
        answer, said = _cancel(store, job_id)
        answers.append(answer)
        if not as_json:
            click.echo(said)
    if as_json:
        click.echo(json.dumps(answers[0] if len(answers) == 1 and jobs else answers, indent=2))


def _chosen(store: Store, choice: Mapping[str, Any], *, ask: bool) -> list[str]:
    """Return the ids of all jobs that have not ended and that the user chose, once the user has confirmed it."""
    states = parse_states(choice["state"]) or GROUPS["live"]
    chosen = Selection(states=states - GROUPS["ended"], name=choice["name"])
    jobs = [job for job in store.page(live=-1, ended=0).jobs if chosen.matches(job)] if chosen.states else []
    if not jobs:
        raise NotFound("No job that has not ended matches. Nothing was cancelled.")
    if ask:
        shown = ", ".join(job.name for job in jobs[:SHOWN_NAMES]) + (" …" if len(jobs) > SHOWN_NAMES else "")
        click.confirm(f"Cancel {len(jobs)} job{'s' * (len(jobs) > 1)} for good ({shown})?", abort=True, err=True)
    return [job.id for job in jobs]


def _cancel(store: Store, job_id: str) -> tuple[dict[str, Any], str]:
    """Cancel one job; return what `--json` prints of it, and what a person reads."""
    by = f"cancelled by {user()}"
    try:
        before = store.get(job_id)
    except BadRecord as error:
        return _discard(store, error, text=by)
    ended_before = before.state in ENDED
    state = store.cancel(job_id, text=by)
    said = SAID.get(state, "{name} is stopping; `pi0q watch {id}` shows its end.")
    if ended_before and state is State.CANCELLED:
        said = "{name} was cancelled before; nothing was changed."
    said += _cancel_trials(store, before, text=by)
    answer = {"id": job_id, "state": state.value, "already_ended": ended_before}
    return answer, said.format(name=before.name, id=job_id)


def _cancel_trials(store: Store, job: Record, *, text: str) -> str:
    """Cancel the trials of a sweep; return what is said of that."""
    if not job.trials:
        return ""
    from pi0q.queue import sweeps

    return sweeps.act(store, job, lambda trial: store.cancel(trial.id, text=text))


def _discard(store: Store, error: BadRecord, *, text: str) -> tuple[dict[str, Any], str]:
    """Remove a job whose record cannot be read; where a box has it, the box is asked to end it first."""
    if store.discard(error.job_id, text=text):
        said = f"The record of {error.shown_id} was damaged ({error.damage}); the job is removed."
        return {**error.to_json(), "state": "removed"}, said
    said = (
        f"The record of {error.shown_id} is damaged ({error.damage}); its box is asked to end it.\n"
        f"Fix: `pi0q cancel {error.shown_id}` once more removes it then."
    )
    return error.to_json(), said
