"""From a job file to a record and its Celery message."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs import command
from pi0q.jobs.box_choice import BoxChoice
from pi0q.jobs.dataset import Images
from pi0q.jobs.errors import UsageError, UsageErrors
from pi0q.jobs.estimates import job_needs
from pi0q.jobs.estimates.base_facts import BaseFacts
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.schema.overrides import Override
from pi0q.jobs.schema.yaml_nodes import MAX_BYTES
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.start_point import StartPoint
from pi0q.jobs.vram_peak import Peak
from pi0q.queue import celery_message, signing
from pi0q.queue.current_user import user
from pi0q.queue.digests import sha256

if TYPE_CHECKING:
    from pi0q.queue.user_store import UserStore


def load_all(files: Sequence[str], *, rehearsal: bool, overrides: Sequence[Override] = ()) -> list[Spec]:
    """Read several files, with these values in place of theirs. Raises UsageError with the faults of all of them."""
    specs, faults = list[Spec](), list[UsageError]()
    for file in files:
        try:
            specs.append(load(file, rehearsal=rehearsal, overrides=overrides))
        except UsageError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise UsageErrors(faults)
    return specs


def load(file: str, *, rehearsal: bool = False, overrides: Sequence[Override] = ()) -> Spec:
    """Read a job file. Raises SpecError with all its faults, UsageError if there is no such file."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as source:
            # One byte more than it may have: `parse` tells that it is too large.
            raw = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"Can't read {file}: {error.strerror}. Nothing was queued.") from None
    filename = "standard input" if file == "-" else file
    spec = parse(raw, filename=filename, overrides=overrides)
    if spec.sweep is not None:
        from pi0q.jobs import sweep_trials  # few jobs are sweeps

        sweep_trials.checked(spec, filename)
    return replace(spec, rehearsal=True) if rehearsal else spec


def fingerprint(spec: Spec) -> str:
    """Return a hash that is the same for the same job of the same user."""
    return sha256(f"{user()} {json.dumps(spec.to_json(), sort_keys=True)}".encode())


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was found out of a job besides its file; each None where it was not."""

    #: Of its dataset, as the Hub states them.
    images: Images | None = None
    #: What its file's `job:` means.
    start: StartPoint | None = None
    #: The measured VRAM of an earlier job of its shape.
    peak: Peak | None = None
    #: What was read of the weights that it starts from.
    base: BaseFacts | None = None
    #: Keys under which the pace of its like is known.
    shapes: Sequence[str] = ()

    def to_fields(self) -> dict[str, Any]:
        """Return what the record keeps of it."""
        told = {"starts_from": self.start, "measured": self.peak, "base": self.base}
        return {name: value.to_json() for name, value in told.items() if value is not None}


def new_fields(spec: Spec, known: Known | None = None) -> dict[str, Any]:
    """Return the record of a new job of the present user."""
    # As secrets.token_hex(6), whose module loads OpenSSL.
    return fields_of(spec, os.urandom(6).hex(), submitter=user(), known=known)


def put(store: UserStore, fields: Mapping[str, Any], *, key: str = "") -> dict[str, Any]:
    """Queue a job, unless one with this key was queued a moment ago; return what `pi0q submit --json` prints.

    `fields` as `new_fields` has them; they are signed here where the user has a key. Raises BadKeyFile.
    """
    job_id, wandb_url = fields["id"], fields["wandb_url"]
    waits = any(name in fields for name in ("awaits", "start_ms", "trials"))
    state = "queued"
    text = f"submitted by {user()}" + (", a rehearsal" if fields["spec"]["rehearsal"] else "")
    there = store.submit(job_id, signing.signed(fields, store.prefix), text=text, key=key)
    if there != job_id or waits:
        known = store.get(there)
        wandb_url, state = known.wandb_url, str(known.state)
    return {
        "id": there,
        "name": fields["name"],
        "new": there == job_id,
        "state": state,
        "wandb_url": wandb_url,
        "needs": fields["needs"],
        "choice": str(BoxChoice(**{name: tuple(found) for name, found in fields.get("choice", {}).items()})),
        "starts_from": fields.get("starts_from"),
        "measured": fields.get("measured"),
    }


def fields_of(spec: Spec, job_id: str, *, submitter: str, known: Known | None = None) -> dict[str, Any]:
    """Return the record of a new job. The WandB run's id, and so its link, is fixed before the first step."""
    known = known or Known()
    estimate = job_needs.estimate(spec, images=known.images, peak=known.peak, base=known.base)
    wanted = {"gpus": estimate.gpus, "vram_mib": estimate.vram_mib, "disk_mib": estimate.disk_mib}
    if spec.resources.share and estimate.gpus:
        wanted["share"] = 1
    where = spec.resources.where
    priority = spec.priority.value
    return {
        "id": job_id,
        "name": spec.name,
        "priority": priority,
        "submitter": submitter,
        "spec": spec.to_json(),
        "needs": wanted,
        "steps": steps(spec),
        **({"choice": where.to_json()} if where else {}),
        **({"budget": spec.budget.to_json()} if spec.budget else {}),
        **known.to_fields(),
        "wandb_run_id": f"pi0q-{job_id}",
        "wandb_url": wandb_url(spec, f"pi0q-{job_id}"),
        "queue": celery_message.queue_key(celery_message.STEPS[priority]),
        "message": celery_message.build(job_id, name=spec.name, needs=wanted, priority=priority, origin=submitter),
    }


def steps(spec: Spec) -> int:
    """Return the step that the job ends with."""
    wanted = number(spec.train, "steps")
    return min(wanted, command.REHEARSAL_STEPS) if spec.rehearsal else wanted


def wandb_url(spec: Spec, run_id: str) -> str | None:
    """Return the link of the WandB run where it can be known: entity and project are given and it is not offline."""
    train = spec.train
    known = train.get("wandb.enable") and train.get("wandb.entity") and train.get("wandb.project")
    if not known or spec.rehearsal or train.get("wandb.mode") in ("offline", "disabled"):
        return None
    return f"https://wandb.ai/{train['wandb.entity']}/{train['wandb.project']}/runs/{run_id}"
