"""`pi0q hold` and `pi0q release`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import job_text
from pi0q.queue.commands.common import JOB, open_store, resolve_all
from pi0q.queue.current_user import user
from pi0q.queue.store import Store


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="ID…", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def hold(jobs: tuple[str, ...], as_json: bool) -> None:
    """Keep a job out of the queue until `pi0q release`.

    A running job saves a checkpoint and releases its GPU; after `pi0q release` it resumes from there. It keeps its
    place in the queue and its attempts.
    """
    _each(jobs, lambda store, job: store.hold(job.id, text=f"by {user()}"), _held, as_json=as_json)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="ID…", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def release(jobs: tuple[str, ...], as_json: bool) -> None:
    """End a hold: the job is queued again."""
    _each(jobs, _release, _released, as_json=as_json)


def _release(store: Store, job: Record) -> State:
    return store.release(job.id)


def _trials(store: Store, job: Record, act: Callable[[Store, Record], State]) -> str:
    """Do the same with the trials of a sweep; return what is said of that."""
    if not job.trials or job.state in ENDED:
        return ""
    from pi0q.queue import sweeps

    # A trial that nobody holds waits for its turn, or for another job, and goes on doing so.
    held = {trial.id for trial in sweeps.living(store, job.id) if trial.held}
    chosen = (lambda trial: trial.id in held) if act is _release else (lambda _: True)
    return sweeps.act(store, job, lambda trial: act(store, trial), chosen)


def _each(
    jobs: tuple[str, ...],
    act: Callable[[Store, Record], State],
    said: Callable[[Record, Record], str],
    *,
    as_json: bool,
) -> None:
    """Apply one act to each of these jobs; to none if one of them is unknown. Exit with 1 where one has ended."""
    store, answers, left_alone = open_store(), [], False
    for job_id in resolve_all(store, jobs):
        before = store.get(job_id)
        act(store, before)
        trials = _trials(store, before, act)
        after = store.get(job_id)
        left_alone = left_alone or bool(_left_alone(before))
        answers.append({"id": job_id, "state": after.state.value, "held": after.held})
        if not as_json:
            click.echo(f"{said(before, after)}{trials}")
    if as_json:
        job_text.print_json(answers if len(answers) > 1 else answers[0])
    if left_alone:
        sys.exit(1)


def _held(before: Record, job: Record) -> str:
    if why := _left_alone(before):
        return why
    if before.held:
        return f"{job.name} is held already, {before.held}; nothing was changed."
    if job.state in OWNED:
        return f"Holding {job.name}: it saves a checkpoint and releases its GPU. Follow it with `pi0q watch {job.id}`."
    return f"{job.name} is held. To let it go on: pi0q release {job.id}"


def _released(before: Record, job: Record) -> str:
    if why := _left_alone(before):
        return why
    if before.trials and not before.held:
        return f"{job.name} is not held."
    if before.state is State.WAITING and not before.held:
        if job.state is State.WAITING:
            return f"{job.name} still waits: {job.detail}"
        return f"{job.name} is queued now: it waits for no other job and no time."
    if not before.held:
        return f"{job.name} is not held; nothing was changed."
    if job.state in OWNED:
        return f"{job.name} is still saving; it is queued again as soon as that is done."
    if job.trials:
        return f"{job.name} is held no longer."
    if job.state is State.WAITING:
        return f"{job.name} is held no longer; it waits: {job.detail}"
    return f"{job.name} is queued again, in its old place."


def _left_alone(job: Record) -> str:
    if job.state in ENDED:
        return f"{job.name} has ended ({job.state}); nothing was changed."
    return f"{job.name} is being cancelled; nothing was changed." if job.wish == "cancel" else ""
