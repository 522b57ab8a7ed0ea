"""`pi0q retry`."""

from __future__ import annotations

import secrets
from typing import Any

import click

from pi0q.jobs import aftermath
from pi0q.jobs.errors import SpecError, UsageError
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, State
from pi0q.queue import render
from pi0q.queue.store import Store
from pi0q.queue.verbs.common import open_store, user

#: What the new job has of the old one: where its checkpoints are, its WandB run, what was found out already.
CARRIED = ("box", "step", "checkpoint", "copied", "kept_steps", "pins", "rehearsal", "vram_peak_mib", "save_seconds",
           "wandb_run_id", "wandb_url", "wandb_dir", "lerobot", "disk_plan")  # fmt: skip


@click.command()
@click.argument("job", metavar="ID")
@click.option("--file", metavar="FILE", help="The job's file, mended; without it the job is tried as it was.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retry(job: str, file: str | None, as_json: bool) -> None:
    """Go on with a job that failed or was cancelled, from its newest checkpoint and in the same WandB run.

    What has ended stays ended: the job that goes on has an id of its own. Of a job that succeeded, what is left to
    do is tried now: its push, its last copy, a WandB run that was kept on its box. All are tried by themselves too.

    \b
      pi0q retry grab_box                       as it was
      pi0q retry grab_box --file grab_box.yaml  with a smaller batch, say
    """
    store = open_store()
    before = store.get(store.resolve(job))
    if before.state is State.SUCCEEDED and (left := aftermath.left(before)):
        _try_now(store, before, left, as_json=as_json)
        return
    spec = _spec(before, file)
    if before.state not in ENDED:
        raise UsageError(f"{before.name} has not ended ({before.state}); nothing was changed.")
    if before.state is State.SUCCEEDED:
        raise UsageError(f"{before.name} has succeeded: there is nothing to try again; nothing was changed.")
    after = store.get(_go_on(store, before, spec))
    if as_json:
        render.print_json({"id": after.id, "continues": before.id, "state": after.state.value})
        return
    saved = before.checkpoint
    where = f"from step {saved.step}, on {before.box} if it can" if saved else "from step 0: it had saved nothing"
    click.echo(f"{after.name} goes on as {after.id}, {where}.  See it with: pi0q watch {after.id}")


def _try_now(store: Store, job: Record, left: list[str], *, as_json: bool) -> None:
    """What the boxes of a job that succeeded have left to send, they try to send now."""
    store.retry(job.id, text=f"{user()} wants it tried now: {'; '.join(left)}")
    silent = sorted(_senders(job) - store.living())
    if as_json:
        render.print_json({"id": job.id, "left": left, "waits_for": silent})
        return
    for one in left:
        click.echo(one)
    if silent:
        click.echo(f"What is to be sent lies on {', '.join(silent)}: it is tried when a worker is up there again.")
    else:
        click.echo(f"It is tried now; `pi0q show {job.id}` says what came of it.")


def _senders(job: Record) -> set[str]:
    """The boxes that have something of it to send."""
    waits = {box for box, told in job.wandb_sync.items() if told.get("state") != "done"}
    return waits | ({job.box} if job.box and any([*aftermath.push_left(job), *aftermath.copy_left(job)]) else set())


def _spec(before: Record, file: str | None) -> Spec:
    if file is not None:
        from pi0q.queue.verbs.submit import load

        return load(file)
    try:
        return Spec.from_json(before.spec)
    except SpecError as error:
        raise UsageError(f"Its record can't be read any more: give its file with --file.\n{error}") from None


def _go_on(store: Store, before: Record, spec: Spec) -> str:
    """The id of the job that goes on from this one. Raises UsageError where that has been tried and has ended too."""
    from pi0q.queue.verbs.submit import fields_of

    job_id, raw = secrets.token_hex(6), store.raw(before.id)
    if before.continued and store.get(before.continued).state in ENDED:
        raise UsageError(f"It went on as {before.continued}, which has ended too: pi0q retry {before.continued}")
    carried: dict[str, Any] = {name: raw[name] for name in CARRIED if raw.get(name)}
    fields = {**fields_of(spec, job_id, submitter=user()), **carried, "continues": before.id}
    return store.submit(job_id, fields, text=f"{user()} goes on with {before.id}", continues=before.id)
