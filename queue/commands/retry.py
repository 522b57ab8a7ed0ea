"""`pi0q retry`."""

from __future__ import annotations

import secrets
from typing import Any

import click

from pi0q.jobs import postrun, several_gpus, sweep
from pi0q.jobs.errors import SpecError, UsageError
from pi0q.jobs.record import Record, Use, keys_for
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import StartPoint
from pi0q.jobs.state import ENDED, State
from pi0q.queue import box_status, job_text, settings, signing
from pi0q.queue.commands.common import open_store
from pi0q.queue.current_user import user
from pi0q.queue.store import Store

#: What the new job has of the old one: where its checkpoints are, its WandB run, what was found out already.
CARRIED = keys_for(Use.CARRIED)


@click.command()
@click.argument("job", metavar="ID")
@click.option("--file", metavar="FILE", help="The job's changed file; without it the job is retried as it was.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retry(job: str, file: str | None, as_json: bool) -> None:
    """Continue a job that failed or was cancelled, from its newest checkpoint and in the same WandB run.

    The ended job stays as it is: the job that continues it has an id of its own. Of a job that succeeded, retry the
    pending post-run tasks now (push, last copy, WandB and SwanLab sync); boxes also retry them by themselves.

    \b
      pi0q retry grab_box                       as it was
      pi0q retry grab_box --file grab_box.yaml  for instance with a smaller batch
    """
    store = open_store()
    before = store.get(store.resolve(job))
    if before.state is State.SUCCEEDED and (left := postrun.left(before)):
        _try_now(store, before, left, as_json=as_json)
        return
    if before.trials:
        raise UsageError(
            f"{before.name} is a sweep: its trials are retried one by one; nothing was changed.\n"
            f"Fix: pi0q retry {sweep.trial_name(before.name, 1)}   "
            f"(pi0q ls --name '{before.name}/*' --state failed lists those that failed)"
        )
    spec = _spec(before, file)
    if before.state not in ENDED:
        raise UsageError(f"{before.name} has not ended ({before.label}); nothing was changed.")
    if before.state is State.SUCCEEDED:
        raise UsageError(f"{before.name} has succeeded: there is nothing to try again; nothing was changed.")
    _refuse_small_limit(before, spec)
    genuine = _genuine(before, store, file)
    after = store.get(_go_on(store, before, spec, genuine=genuine))
    if as_json:
        job_text.print_json({"id": after.id, "continues": before.id, "state": after.state.value})
        return
    saved = before.checkpoint
    where = f"from step {saved.step}, on {before.box} if it can" if saved else "from step 0: nothing was saved"
    click.echo(f"{after.name} goes on as {after.id}, {where}.  See it with: pi0q watch {after.id}")
    if saved and (note := several_gpus.change_note(*(max(1, job.needs.get("gpus", 0)) for job in (before, after)))):
        click.echo(f"pi0q: {note}", err=True)


def _genuine(before: Record, store: Store, file: str | None) -> bool:
    """Return whether the job is as someone signed it whom the user trusts, or the user signs nothing.

    Raises UsageError where the retry would sign what may have been changed in the queue.
    """
    genuine = signing.is_genuine(before, store.prefix)
    if not genuine and file is None:
        raise UsageError(
            f"The job file of {before.name} in the queue is not as someone signed it whom you trust, so it is not "
            "signed again unseen; nothing was changed.\n"
            f"Fix: pi0q get {before.id} > job.yaml, look at it, then pi0q retry {before.id} --file job.yaml"
        )
    return genuine


def _refuse_small_limit(before: Record, spec: Spec) -> None:
    """Raise UsageError where the job has trained already for as long as the time_limit of its file allows."""
    if spec.time_limit is not None and before.trained_seconds >= spec.time_limit:
        raise UsageError(
            f"{before.name} has trained for {job_text.span(before.trained_seconds)}, and its time_limit is "
            f"{job_text.span(spec.time_limit)}: it would stop at once. Nothing was changed.\n"
            f"Fix: pi0q retry {before.id} --file FILE   (with a larger time_limit, or none)"
        )


def _try_now(store: Store, job: Record, left: list[str], *, as_json: bool) -> None:
    """What the boxes of a job that succeeded have left to send, they try to send now."""
    store.retry_postrun(job.id, text=f"{user()} wants it tried now: {'; '.join(left)}")
    silent = sorted(_senders(job) - box_status.names_up(store.boxes(), settings.load().timing.silent))
    if as_json:
        job_text.print_json({"id": job.id, "left": left, "waits_for": silent})
        return
    for one in left:
        click.echo(one)
    if silent:
        click.echo(f"The data to send is on {', '.join(silent)}: it is sent when a worker runs there again.")
    else:
        click.echo(f"It is retried now; `pi0q show {job.id}` shows the result.")


def _senders(job: Record) -> set[str]:
    """The boxes that have something of it to send."""
    kept = (*job.wandb_sync.items(), *job.swanlab_sync.items())
    waits = {box for box, told in kept if told.get("state") != "done"}
    return waits | ({job.box} if job.box and any([*postrun.push_left(job), *postrun.copy_left(job)]) else set())


def _spec(before: Record, file: str | None) -> Spec:
    if file is not None:
        from pi0q.queue.submission import load

        return load(file)
    try:
        return Spec.from_json(before.spec)
    except SpecError as error:
        raise UsageError(f"Its record can't be read any more. Fix: give its file with --file.\n{error}") from None


def _go_on(store: Store, before: Record, spec: Spec, *, genuine: bool) -> str:
    """The id of the job that goes on from this one. Raises UsageError where that has been tried and has ended too."""
    from pi0q.jobs.dataset import DatasetInfo
    from pi0q.queue import measured_peaks
    from pi0q.queue.submission import Known, fields_of

    job_id, raw = secrets.token_hex(6), store.raw(before.id)
    if before.continued and store.get(before.continued).state in ENDED:
        raise UsageError(f"It went on as {before.continued}, which has ended too: pi0q retry {before.continued}")
    carried: dict[str, Any] = {name: raw[name] for name in CARRIED if raw.get(name)}
    spec, start, waits = _start(store, before, spec, genuine=genuine)
    carried.pop("starts_from", None)
    facts = DatasetInfo.of_any(before.preflight)
    images = facts.images if facts else None
    peak = measured_peaks.find(store, spec, images)
    fresh = fields_of(
        spec, job_id, submitter=user(), known=Known(images=images, start=start, peak=peak, base=before.base)
    )
    signed = signing.signed({**fresh, **waits}, store.prefix, before=before)
    fields = {**signed, **carried, **waits, "continues": before.id}
    return store.submit(job_id, fields, text=f"{user()} goes on with {before.id}", continues=before.id)


def _start(
    store: Store, before: Record, spec: Spec, *, genuine: bool
) -> tuple[Spec, StartPoint | None, dict[str, Any]]:
    """Return the job by ids, what it starts from, and what it still waits for: one that was claimed before, nothing."""
    from pi0q.queue import dependencies, start_points

    # One that has a checkpoint of its own needs its start no more, and that may be gone.
    if before.checkpoint and before.starts_from and genuine:
        return *start_points.pointed(spec, before.starts_from), {}
    if before.epoch or not spec.conditions:
        return *start_points.resolve(store, spec), {}
    awaited = dependencies.find(store, [spec])
    (spec,), (start,) = start_points.resolve_all(store, [spec], awaited)
    spec = dependencies.with_ids(spec, {word: job.id for word, job in awaited.known.items()})
    pending = start is not None and start.point is None
    return spec, start.point if start else None, dependencies.fields(spec, now_ms=store.now_ms(), pending=pending)
