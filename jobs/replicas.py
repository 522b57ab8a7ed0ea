"""Copies of checkpoints (replicas): places, names, and the status of a run's newest copy. Pure.

PLACE/JOB/000010/                    a copy; its manifest was written last
PLACE/JOB/000010.epoch-3.part/       an incomplete copy of that claim (directories only: a commit to the Hub is atomic)
PLACE/JOB/000010.bad/                a copy that did not verify
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec

#: Prefix of a place that is a repository of the Hub.
HUB = "hf://"
#: Ends after which another box takes the job as soon as all is copied: this box sent it away, or lacks disk space.
HANDED_OVER = frozenset({Reason.STOPPED_BY_BOX, Reason.DISK_LOW, Reason.DISK_FULL})

_PART = re.compile(r"(\d+)\.epoch-(\d+)\.part")


class CopyState(Enum):
    """How the newest checkpoint of a run stands against its copy."""

    #: Nothing to copy, or all is copied.
    IDLE = "idle"
    #: It waits until the copy of an older checkpoint has ended.
    WAITING = "waiting"
    COPYING = "copying"
    FAILED = "failed"
    #: The run ended before it was copied.
    OUT_OF_TIME = "out of time"


@dataclass(frozen=True, kw_only=True)
class CopyStatus:
    """The state with its details; the record's `copy_detail` is its text."""

    state: CopyState
    step: int = 0
    #: The step whose copy runs, where `step` waits for it.
    running: int = 0
    error: str = ""
    #: Seconds until the next try; None where there is none.
    retry_seconds: float | None = None

    def text(self) -> str:
        """Return the status as users read it; "" where there is nothing to say."""
        match self.state:
            case CopyState.IDLE:
                return ""
            case CopyState.WAITING:
                return f"step {self.step} waits for the copy of step {self.running}"
            case CopyState.COPYING:
                return f"step {self.step} is being copied"
            case CopyState.FAILED:
                return f"step {self.step} is not copied: {self.failure()}"
            case CopyState.OUT_OF_TIME:
                return f"step {self.step} is not copied: there was no time to wait for it"

    def failure(self) -> str:
        """Return why the copy failed, and when it is tried again."""
        return self.error if self.retry_seconds is None else f"{self.error}; retry in {self.retry_seconds / 60:.0f} min"


def place_of(spec: Spec) -> str:
    """Return where copies of a job's checkpoints go; "" if nowhere. A rehearsal leaves nothing behind."""
    return "" if spec.rehearsal else spec.checkpoints.copy_to or ""


def repository(place: str) -> str:
    """Return the repository owner/name of a place; "" if the place is a directory."""
    return place[len(HUB) :] if place.startswith(HUB) else ""


def path_of(place: str, job: str, name: str) -> str:
    """Return the path of the copy of one checkpoint."""
    return f"{place.rstrip('/')}/{job}/{name}"


def place_in(saved: Saved) -> str:
    """Return the place in the path of a copy."""
    return saved.path.rsplit("/", 2)[0]


def job_in(saved: Saved) -> str:
    """Return the job in the path of a copy."""
    return saved.path.rsplit("/", 2)[1]


def part_name(name: str, epoch: int) -> str:
    """Return the name of a copy while it is incomplete."""
    return f"{name}.epoch-{epoch}.part"


def part_of(entry: str) -> tuple[str, int] | None:
    """Return the checkpoint and the epoch in the name of an incomplete copy; None for any other name."""
    found = _PART.fullmatch(entry)
    return (found[1], int(found[2])) if found else None


def within(path: str) -> str:
    """Return the path of a file below its checkpoint. Raises ValueError for a path that leads elsewhere."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"it names the file {path[:100]!r}")
    return path


def amount(size: int) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
