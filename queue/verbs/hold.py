"""`pi0q hold` and `pi0q release`."""

from __future__ import annotations

from collections.abc import Callable

import click

from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import render
from pi0q.queue.store import Store
from pi0q.queue.verbs.common import open_store, user


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="ID…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def hold(jobs: tuple[str, ...], as_json: bool) -> None:
    """Keep a job out of the queue until `pi0q release`.

    A running one saves, stops and gives its GPU back; later it goes on from there. It keeps its place and its attempts.
    """
    _each(jobs, lambda store, job: store.hold(job, text=f"by {user()}"), _held, as_json=as_json)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="ID…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def release(jobs: tuple[str, ...], as_json: bool) -> None:
    """Let a job that was held go on."""
    _each(jobs, lambda store, job: store.release(job), _released, as_json=as_json)


def _each(
    jobs: tuple[str, ...],
    act: Callable[[Store, str], State],
    said: Callable[[Record, Record], str],
    *,
    as_json: bool,
) -> None:
    """Does one thing to each of these jobs; if one of them is unknown, to none."""
    store, answers = open_store(), []
    for job_id in [store.resolve(job) for job in jobs]:
        before = store.get(job_id)
        act(store, job_id)
        after = store.get(job_id)
        answers.append({"id": job_id, "state": after.state.value, "held": after.held})
        if not as_json:
            click.echo(said(before, after))
    if as_json:
        render.print_json(answers if len(answers) > 1 else answers[0])


def _held(before: Record, job: Record) -> str:
    if why := _left_alone(before):
        return why
    if before.held:
        return f"{job.name} is held already, {before.held}; nothing was changed."
    if job.state in OWNED:
        return f"{job.name} saves, gives its GPU back and waits; `pi0q watch {job.id}` shows it."
    return f"{job.name} waits. To let it go on: pi0q release {job.id}"


def _released(before: Record, job: Record) -> str:
    if why := _left_alone(before):
        return why
    if not before.held:
        return f"{job.name} is not held; nothing was changed."
    if job.state in OWNED:
        return f"{job.name} was still being saved; it goes on as soon as that is done."
    return f"{job.name} is in the queue again, before those that came later."


def _left_alone(job: Record) -> str:
    if job.state in ENDED:
        return f"{job.name} has ended ({job.state}); nothing was changed."
    return f"{job.name} is being cancelled; nothing was changed." if job.wish == "cancel" else ""
