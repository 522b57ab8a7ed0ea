"""`pi0q submit`: from a YAML file to a record and its message."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pi0q.jobs import aftermath, command, disk, needs
from pi0q.jobs.document import MAX_BYTES
from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.jobs.spec import Spec, parse
from pi0q.queue import message, settings
from pi0q.queue.verbs.common import user

if TYPE_CHECKING:
    from pi0q.queue.look import Look

#: The LeRobot whose argv a dry run shows; the box builds its own for the version it has.
DRY_RUN_LEROBOT = "0.6.1"
#: LeRobot's own number of steps where the file gives none (configs/train.py).
DEFAULT_STEPS = 100_000


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--rehearsal", is_flag=True, help="The same job with the model shrunk and a handful of steps: minutes.")
@click.option("--dry-run", is_flag=True, help="Check the file and show needs and command; queue nothing.")
@click.option("--again", is_flag=True, help="Queue it even if the same file was queued a moment ago.")
@click.option("--watch", is_flag=True, help="Then watch it; Ctrl-C only stops looking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def submit(files: tuple[str, ...], rehearsal: bool, dry_run: bool, again: bool, watch: bool, as_json: bool) -> None:
    """Put a training into the queue.

    FILE is a job's YAML; `-` reads it from standard input. If any of several files has a fault, none is queued.
    Once it says Queued, the job is on the server's disk. The same file within half a minute is taken for a slip
    of the finger while the first job lives; --again means it.

    \b
      pi0q submit grab_box.yaml --dry-run      what would run, and what it needs
      pi0q submit grab_box.yaml --rehearsal    prove it in minutes first
      pi0q submit grab_box.yaml --watch
    """
    specs = load_all(files, rehearsal=rehearsal)
    chosen = settings.load()
    looking = None
    if not all(spec.train.get("dataset.root") for spec in specs):
        from pi0q.queue.look import Look

        looking = Look(specs, chosen)
    for spec in specs:
        for note in notes(spec):
            click.echo(f"pi0q: {spec.name}: {note}", err=True)
    if watch and len(specs) > 1:
        raise UsageError("--watch watches one job: submit one file with it, or use `pi0q watch` afterwards.")
    if dry_run:
        say(looking)
        show(specs, as_json=as_json)
        return
    from pi0q.queue.connection import connect, eviction
    from pi0q.queue.store import Store

    store = Store(connect(chosen), chosen.prefix)
    if trouble := eviction(store.client):
        raise Pi0qError(f"{trouble}\nNothing was queued.")
    say(looking)
    submitted = [put(store, spec, key="" if again else fingerprint(spec)) for spec in specs]
    if not store.durable():
        click.echo("pi0q: the server has not yet written this to its disk; look again with `pi0q ls`.", err=True)
    if as_json:
        click.echo(json.dumps(submitted if len(submitted) > 1 else submitted[0], indent=2))
    else:
        for job in submitted:
            click.echo(said(job))
    if watch:
        from pi0q.queue.verbs.watch import follow

        follow(store, submitted[0]["id"])


def say(looking: Look | None) -> None:
    """What the look at the Hub brought. Raises UsageError."""
    for note in looking.notes() if looking else ():
        click.echo(f"pi0q: {note}", err=True)


def load_all(files: Sequence[str], *, rehearsal: bool) -> list[Spec]:
    """The specs in several files. Raises UsageError with the faults of all of them."""
    specs, faults = list[Spec](), list[UsageError]()
    for file in files:
        try:
            specs.append(load(file, rehearsal=rehearsal))
        except UsageError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise UsageError("\n".join(map(str, faults)))
    return specs


def load(file: str, *, rehearsal: bool = False) -> Spec:
    """The spec in a file. Raises SpecError with all its faults, UsageError if there is no such file."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as source:
            # One byte more than it may have: `parse` tells that it is too large.
            raw = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"Can't read {file}: {error.strerror}. Nothing was queued.") from None
    spec = parse(raw, filename="standard input" if file == "-" else file)
    return replace(spec, rehearsal=True) if rehearsal else spec


def notes(spec: Spec) -> list[str]:
    """What the file asks for and this version of pi0q does not do."""
    found = []
    if (spec.resources.gpus or 0) > 1:
        found.append(f"{spec.resources.gpus} GPUs are reserved, but LeRobot is started as one process and uses one.")
    room = disk.plan(spec)
    if room.stated_mib is not None and not spec.rehearsal and room.stated_mib < room.reckoned_mib:
        found.append(
            f"resources.disk states {disk.gib(room.mib)}, and {disk.gib(room.reckoned_mib)} are reckoned "
            f"({_most(room)}): it may have to stop for want of room. Left out, it is reckoned."
        )
    return found


def _most(room: disk.Plan) -> str:
    return " + ".join(item.what for item in sorted(room.items, key=lambda item: -item.mib)[:2])


def said(job: dict[str, Any]) -> str:
    """What a person reads of a job that was put into the queue, or was there."""
    if job["new"]:
        queued = f"Queued {job['name']} as {job['id']}.  See it with: pi0q watch {job['id']}"
        return f"{queued}\n{took(job['id'], job['needs'])}"
    return (
        f"{job['name']} was queued a moment ago as {job['id']}; nothing new was queued.\n"
        "To run the same file twice: pi0q submit --again."
    )


def took(job_id: str, needs: dict[str, int]) -> str:
    """What a box must have for it."""
    gpus, vram = needs["gpus"], disk.gib(needs["vram_mib"])
    cards = f"{gpus} GPU{'s' * (gpus > 1)} with {vram} free and " if gpus else ""
    return f"It needs {cards}{disk.gib(needs['disk_mib'])} of disk.  Where it fits, and why: pi0q why {job_id}"


def fingerprint(spec: Spec) -> str:
    """The same for the same job of the same user."""
    return hashlib.sha256(f"{user()} {json.dumps(spec.to_json(), sort_keys=True)}".encode()).hexdigest()


def put(store: Any, spec: Spec, *, key: str = "") -> dict[str, Any]:
    """Queues one job, unless one of this key was a moment ago; returns what a caller wants to know of it."""
    job_id = secrets.token_hex(6)
    fields = fields_of(spec, job_id, submitter=user())
    text = f"submitted by {user()}" + (", a rehearsal" if spec.rehearsal else "")
    there = store.submit(job_id, fields, text=text, key=key)
    if there != job_id:
        fields = {**fields, "wandb_url": store.get(there).wandb_url}
    return {
        "id": there,
        "name": spec.name,
        "new": there == job_id,
        "state": "queued" if there == job_id else str(store.get(there).state),
        "wandb_url": fields["wandb_url"],
        "needs": fields["needs"],
    }


def fields_of(spec: Spec, job_id: str, *, submitter: str) -> dict[str, Any]:
    """The record of a new job. The WandB run's id, and so its link, is fixed before the first step."""
    estimate = needs.estimate(spec)
    wanted = {"gpus": estimate.gpus, "vram_mib": estimate.vram_mib, "disk_mib": estimate.disk_mib}
    priority = spec.priority.value
    return {
        "id": job_id,
        "name": spec.name,
        "priority": priority,
        "submitter": submitter,
        "spec": spec.to_json(),
        "needs": wanted,
        "steps": steps(spec),
        "wandb_run_id": f"pi0q-{job_id}",
        "wandb_url": wandb_url(spec, f"pi0q-{job_id}"),
        "queue": message.queue_key(message.STEPS[priority]),
        "message": message.build(job_id, name=spec.name, needs=wanted, priority=priority, origin=submitter),
    }


def steps(spec: Spec) -> int:
    """The step that the job ends with."""
    given = spec.train.get("steps")
    wanted = given if isinstance(given, int) else DEFAULT_STEPS
    return min(wanted, command.REHEARSAL_STEPS) if spec.rehearsal else wanted


def wandb_url(spec: Spec, run_id: str) -> str | None:
    """The link of the run where it can be known: entity and project are given and it is not offline."""
    train = spec.train
    known = train.get("wandb.enable") and train.get("wandb.entity") and train.get("wandb.project")
    if not known or spec.rehearsal or train.get("wandb.mode") in ("offline", "disabled"):
        return None
    return f"https://wandb.ai/{train['wandb.entity']}/{train['wandb.project']}/runs/{run_id}"


def show(specs: list[Spec], *, as_json: bool) -> None:
    """What a dry run prints."""
    plans = [plan(spec) for spec in specs]
    if as_json:
        click.echo(json.dumps(plans if len(plans) > 1 else plans[0], indent=2))
        return
    for shown in plans:
        click.echo(f"{shown['name']}: the file is good; nothing was queued.\n\nneeds")
        click.echo("".join(f"  {line}\n" for line in shown["why"]))
        click.echo("on the data disk\n" + "".join(f"  {line}\n" for line in disk.table(shown["disk"]["items"])))
        click.echo("environment\n" + "".join(f"  {name}={value}\n" for name, value in shown["env"].items()))
        click.echo("command\n  " + " \\\n    ".join(shown["argv"]) + "\n")
        if shown["push_to"]:
            click.echo(f"then\n  its box pushes the last checkpoint to {shown['push_to']}\n")


def plan(spec: Spec) -> dict[str, Any]:
    """Needs, environment and argv of a job that is not queued; `JOB` stands for its id."""
    estimate = needs.estimate(spec)
    built = command.fresh(spec, lerobot=DRY_RUN_LEROBOT, output_dir="PI0Q_HOME/runs/JOB/output", run_id="pi0q-JOB")
    return {
        "name": spec.name,
        "argv": list(built.argv),
        "env": built.env,
        "needs": {"gpus": estimate.gpus, "vram_mib": estimate.vram_mib, "disk_mib": estimate.disk_mib},
        "why": list(estimate.why),
        "disk": estimate.disk.to_json(),
        "push_to": aftermath.push_to(spec),
    }
