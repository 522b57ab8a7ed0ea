"""Start of a training from another job's checkpoint: the reference in a job file, and what a record keeps of it. Pure.

    policy.pretrained_path: job:grab_box         the newest verified checkpoint of that job, as of the submit
    policy.path: job:3f2a91bc04de@2000           that of step 2000, its policy's type and settings included
    policy.path: job:grab_box@best               that with the best loss on held-out episodes (`checkpoints.best`)

A submit resolves the reference to a job's id, a step and a manifest (`StartPoint`): another job of the same name, or a
later checkpoint, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pi0q.jobs import job_id
from pi0q.jobs.record_codecs import ID, MANIFEST, VERSION, Codec, json_of, mapping, whole

PREFIX = "job:"
#: Flags that may hold a reference.
FLAGS = ("policy.path", "policy.pretrained_path", "reward_model.pretrained_path")
_STEP = re.compile(r"@(\d{1,9}|best)$", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a job file names: a job by name or id, and a step; None for its newest checkpoint, or its best one."""

    job: str
    step: int | None = None
    best: bool = False

    def __str__(self) -> str:
        which = "@best" if self.best else "" if self.step is None else f"@{self.step}"
        return f"{PREFIX}{self.job}{which}"


@dataclass(frozen=True, kw_only=True)
class StartPoint:
    """The checkpoint that a job starts from."""

    #: Id of the job that made it.
    job: str
    step: int
    #: SHA-256 of its `pi0q.manifest.json`: no other files are taken for it.
    manifest: str
    #: Version of the LeRobot that made it; "" where the record of that job does not say.
    lerobot: str = ""

    @property
    def reference(self) -> Reference:
        """Return the reference that names it exactly."""
        return Reference(job=self.job, step=self.step)

    def to_json(self) -> dict[str, Any]:
        """Return what the record keeps."""
        return asdict(self)


def parse(text: object) -> Reference | None:
    """Return the reference in a flag's value; None for a repository, a path, or anything else."""
    if not isinstance(text, str) or not text.startswith(PREFIX):
        return None
    name = text[len(PREFIX) :].strip()
    found = _STEP.search(name)
    if not found:
        return Reference(job=name)
    best = found[1] == "best"
    return Reference(job=name[: found.start()], step=None if best else int(found[1]), best=best)


def fault(text: str) -> str | None:
    """Return what is wrong with a text that begins with `job:`; None if nothing is."""
    found = parse(text)
    if found is None or not found.job or found.job.startswith("-"):
        return f"must be job:NAME, job:ID, job:ID@STEP or job:ID@best, not `{text[:60]}`"
    last = found.job.rpartition("@")[2]
    if "@" in found.job and not last.strip():
        return f"has an empty step: write job:NAME@STEP, or job:NAME for its newest checkpoint, not `{text[:60]}`"
    return None


def flag_of(train: Mapping[str, Any]) -> str:
    """Return the flag that holds a reference to a job; "" where none does."""
    return next((name for name in FLAGS if parse(train.get(name))), "")


def reference_of(train: Mapping[str, Any]) -> Reference | None:
    """Return the reference of a job's flags; None where it starts from no other job."""
    return parse(train.get(flag_of(train)))


def _read(text: str) -> StartPoint:
    found = mapping(json_of(text))
    if set(found) != set(StartPoint.__dataclass_fields__):
        raise ValueError
    return StartPoint(
        job=ID.read(found["job"]),
        step=whole(found["step"]),
        manifest=MANIFEST.read(found["manifest"]),
        lerobot=VERSION.read(found["lerobot"]) if found["lerobot"] != "" else "",
    )


def _starters(text: str) -> dict[str, int]:
    found = mapping(json_of(text))
    if not all(map(job_id.is_job_id, found)):
        raise ValueError
    return {name: whole(step) for name, step in found.items()}


START_POINT = Codec(_read, "a job's id, a step and a manifest as JSON", lambda start: start and start.to_json())
STARTERS = Codec(_starters, "steps by job as JSON")
