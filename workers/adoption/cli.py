"""What `pi0q import --adopt DIR` says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from pi0q.jobs.errors import UsageError
from pi0q.jobs.printable import printable
from pi0q.queue import box_status
from pi0q.queue import settings as all_settings
from pi0q.queue.commands.common import open_store
from pi0q.workers.adoption.adopt import NOTHING, Adoption
from pi0q.workers.adoption.adopt import adopt as take_over
from pi0q.workers.host import identity


def adopt(directory: Path, *, as_json: bool) -> None:
    """Take over an output directory on this box, and say what became of it. Raises Pi0qError."""
    settings, store = all_settings.load(), open_store()
    store.client.ping()  # verifying 22 GB for nothing would be a pity
    boxes, me = store.boxes(), identity.read(settings)
    # `pi0q worker --name` may have given it another name than the settings do.
    name = next((box["name"] for box in boxes if box.get("box_id") == me.box_id), me.name)
    up = box_status.names_up(boxes, settings.timing.silent)
    try:
        made = take_over(directory, settings, store, box=name, say=_say)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UsageError(f"{directory} can't be taken over: {error.strerror or error}{where}. {NOTHING}") from None
    for note in made.notes:
        click.echo(f"pi0q: {printable(note, lines=False)}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(made), indent=2))
        return
    click.echo(confirmation(made, directory, worker_runs=made.box in up))


def _say(text: str) -> None:
    click.echo(f"pi0q: {text} …", err=True)


def confirmation(made: Adoption, directory: Path, *, worker_runs: bool) -> str:
    """Return what a person reads of an output directory that was taken over."""
    lines = [
        f"{made.name} goes on as {made.job_id}, from step {made.step} of {made.steps}, on {made.box}.  "
        f"See it with: pi0q watch {made.job_id}",
        f"Its checkpoint ({made.saved.bytes / 1e9:.1f} GB) is verified and lies in {made.saved.path}.",
        f"{directory} is as it was; delete it when the job has its first checkpoint of its own.",
    ]
    if not worker_runs:
        lines.append(f"No worker runs on {made.box}: the job waits for it. Fix: pi0q worker")
    return "\n".join(lines)
