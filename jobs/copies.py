"""Copies of checkpoints: where they lie, what they are called, when a copy that failed is tried again. Pure.

PLACE/JOB/000010/                    a copy; its manifest was written last
PLACE/JOB/000010.epoch-3.part/       one in the making, under that epoch (directories only: a commit is whole at once)
PLACE/JOB/000010.bad/                one that did not verify
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from pi0q.jobs.checkpoint import to_remove
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec

#: What the place of copies in a repository of the Hub begins with.
HUB = "hf://"
#: Before a copy that failed is tried again, seconds: the first pause, and the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 1800.0
#: Ends after which another box need not wait for a job's own, once all is copied: that one sent it away, or lacks room.
HANDED_OVER = frozenset({Reason.STOPPED_BY_BOX, Reason.DISK_LOW, Reason.DISK_FULL})

_PART = re.compile(r"(\d+)\.epoch-(\d+)\.part")


def place_of(spec: Spec) -> str:
    """Where copies of its checkpoints go; "" if nowhere. A rehearsal leaves nothing behind."""
    return "" if spec.rehearsal else spec.checkpoints.copy_to or ""


def repository(place: str) -> str:
    """The repository owner/name that a place is; "" if it is a directory."""
    return place[len(HUB) :] if place.startswith(HUB) else ""


def path_of(place: str, job: str, name: str) -> str:
    """Where the copy of one checkpoint lies."""
    return f"{place.rstrip('/')}/{job}/{name}"


def place_in(saved: Saved) -> str:
    """The place that a copy's path names."""
    return saved.path.rsplit("/", 2)[0]


def job_in(saved: Saved) -> str:
    """The job that a copy's path names."""
    return saved.path.rsplit("/", 2)[1]


def part_name(name: str, epoch: int) -> str:
    """What a copy is called while it is made."""
    return f"{name}.epoch-{epoch}.part"


def part_of(entry: str) -> tuple[str, int] | None:
    """The checkpoint and the epoch that a copy in the making is named after; None for anything else."""
    found = _PART.fullmatch(entry)
    return (found[1], int(found[2])) if found else None


def pause_seconds(failures: int) -> float:
    """How long to wait after that many failures in a row."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))


def superfluous(steps: Iterable[int], keep: int, spared: Collection[int]) -> list[int]:
    """The copies that may go once a newer one has verified: all but the newest `keep` and those spared."""
    return to_remove(steps, keep, spared)


def within(path: str) -> str:
    """The path of a file below its checkpoint. Raises ValueError for one that leads elsewhere."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"it names the file {path[:100]!r}")
    return path


def amount(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
