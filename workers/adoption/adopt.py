"""Take over an output directory that was begun by hand: verify, seal, queue a job that goes on from it on this box."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import UsageError, errors
from pi0q.jobs.importing.importer import Imported, import_text
from pi0q.jobs.record import Saved
from pi0q.jobs.safety.findings import Use, describe
from pi0q.jobs.schema import flags
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.spec import Spec, parse
from pi0q.queue import signing
from pi0q.queue.current_user import user
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import fields_of
from pi0q.workers.adoption import output_directory
from pi0q.workers.adoption.output_directory import Found, NotWhole
from pi0q.workers.checkpoints import local_store
from pi0q.workers.host import files
from pi0q.workers.host.identity import box_name
from pi0q.workers.host.model_files import code_hashes, judge_directory
from pi0q.workers.host.own_files import open_for_reading
from pi0q.workers.runs.job_trust import JobTrust
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.trainer import interpreter
from pi0q.workers.trainer.interpreter import TrainerPython

#: Files up to this size are copied; larger ones share their bytes with the old directory where the disk allows it.
COPIED_BYTES = 1024 * 1024
NOTHING = "Nothing was queued, and the directory is as it was."
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What an output directory became."""

    job_id: str
    name: str
    step: int
    steps: int
    box: str
    saved: Saved
    wandb_run_id: str
    #: What the import of its settings left out, and later checkpoints that are not whole.
    notes: tuple[str, ...]


def adopt(directory: Path, settings: Settings, store: Store, *, box: str, say: Callable[[str], None]) -> Adoption:
    """Take over an output directory of lerobot-train.

    `box` is this box as the queue knows it; `say` hears what takes long. Raises UsageError, OSError.
    """
    found = _found(directory)
    trainer = _trainer(settings)
    spec, notes = _spec(found, trainer.lerobot)
    job_id = secrets.token_hex(6)
    run = RunDirectory(settings.runs / job_id)
    try:
        say(f"verifying step {found.step} of {directory}")
        saved = _take(found, run, settings, trainer.lerobot)
        known = {"box": box, "checkpoint": saved, "step": found.step, "lerobot": trainer.lerobot}
        fields = _fields(spec, job_id, found) | known
        store.submit(
            job_id,
            signing.signed(fields, store.prefix),
            text=f"{user()} took {directory.resolve()} over at step {found.step}",
        )
    except BaseException:
        # Also of a Ctrl-C nothing must stay: copies of 22 GB that no job knows.
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return Adoption(
        job_id=job_id,
        name=spec.name,
        step=found.step,
        steps=number(spec.train, "steps"),
        box=box,
        saved=saved,
        wandb_run_id=str(fields["wandb_run_id"]),
        notes=notes,
    )


def _found(directory: Path) -> Found:
    """The checkpoint to go on from. Raises UsageError where there is none, or somebody still writes."""
    if not directory.is_dir():
        raise UsageError(f"There is no directory {directory}. {NOTHING}")
    if (pid := output_directory.writer(directory)) is not None:
        raise UsageError(
            f"Process {pid} still trains into {directory}. {NOTHING}\n"
            f"Fix: after its next checkpoint, end it: kill {pid}; then again: pi0q import --adopt {directory}"
        )
    try:
        found = output_directory.newest(directory)
    except NotWhole as error:
        raise UsageError(f"{directory} can't be taken over: {error}. {NOTHING}") from None
    return found


def _trainer(settings: Settings) -> TrainerPython:
    found = interpreter.find(settings)
    if isinstance(found, TrainerPython):
        return found
    raise UsageError(f"This box has no trainer: {found.why}. {NOTHING}")


def _spec(found: Found, lerobot: str) -> tuple[Spec, tuple[str, ...]]:
    """The job that goes on from a checkpoint, and what of its settings was left out. Raises UsageError."""
    name = str(found.path / "pretrained_model" / "train_config.json")
    made: Imported = import_text(found.config, name=name)
    if made.faults:
        lines = [f"  {name}:{fault.line}: {fault.text}" for fault in made.faults]
        raise UsageError("\n".join([f"{errors(len(lines))} in {name}. {NOTHING}", *lines]))
    spec = parse(made.text, filename=name)
    if found.processes is not None and found.processes > 1:
        # One trainer a GPU, as they were: the order of the data stays.
        spec = replace(spec, resources=replace(spec.resources, gpus=found.processes))
    if problems := flags.problems(spec.train, lerobot):
        raise UsageError(f"LeRobot {lerobot} of this box can't go on from it: {'; '.join(problems)}. {NOTHING}")
    if found.step >= (steps := number(spec.train, "steps")):
        raise UsageError(f"It has done all of its {steps} steps: there is nothing to go on with. {NOTHING}")
    passed = [f"step {name} is passed over: {why}" for name, why in found.passed_over.items()]
    return spec, (*passed, *(note.text for note in made.notes))


def _take(found: Found, run: RunDirectory, settings: Settings, lerobot: str) -> Saved:
    """Bring the checkpoint into the run's directory, judge it there and seal it. Raises UsageError, OSError."""
    target = run.checkpoints / found.path.name
    try:
        files.make_private(settings.home)
        for name, size in output_directory.files(found.path):
            _bring(found.path / name, target / name, size)
        verdict = judge_directory(
            target / "pretrained_model", Use.CHECKPOINT, lerobot, allowed=code_hashes(settings), trusted=True
        )
        if verdict.findings:
            raise UsageError(f"{describe(str(found.path), verdict.findings)}. {NOTHING}")
        trust = JobTrust(settings.home, settings.prefix)
        sign = partial(trust.sign_manifest, job=run.path.name, box=box_name(settings))
        return local_store.seal(target, step=found.step, epoch=0, sign=sign)
    except (NotWhole, ValueError) as error:
        raise UsageError(f"{found.path} can't be taken over: {error}. {NOTHING}") from None


def _bring(source: Path, target: Path, size: int) -> None:
    """Copy a file, or share a large one's bytes: what is judged must be ours alone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if size > COPIED_BYTES and source.suffix == ".safetensors":
        # Another disk, or one that has no links.
        with suppress(OSError):
            os.link(source, target, follow_symlinks=False)
            return
    with open_for_reading(source) as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 8 * 1024 * 1024)


def _fields(spec: Spec, job_id: str, found: Found) -> dict[str, Any]:
    """The record of a new job, which keeps the WandB run of what was begun by hand."""
    fields = fields_of(spec, job_id, submitter=user())
    run_id = _wandb_run(found.config)
    if run_id and spec.train.get("wandb.enable"):
        fields["wandb_run_id"] = run_id
        if fields["wandb_url"]:
            fields["wandb_url"] = f"{str(fields['wandb_url']).rpartition('/')[0]}/{run_id}"
    return fields


def _wandb_run(config: str) -> str:
    """The id of the WandB run that a training configuration names; "" if it names none."""
    wandb: Mapping[str, Any] = json.loads(config).get("wandb") or {}
    run_id = wandb.get("run_id")
    return run_id if isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) else ""
