"""Values of the fleet for whatever shows it: terminal page, web page, metrics, Python API. No sentence is made here.

Times are milliseconds since 1970 on the server's clock, memory and disk are MiB, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import Any

from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.queue.box_staging import Staging
from pi0q.queue.job_list import Counts
from pi0q.queue.refusals import Refusal
from pi0q.queue.wait_notes import Wait


class BoxStatus(str, Enum):
    """How a box is."""

    READY = "ready"
    #: A user keeps it from new jobs; some still run.
    DRAINING = "draining"
    DRAINED = "drained"
    #: Its worker has ended.
    STOPPED = "stopped"
    #: No heartbeat for longer than `Timing.silent`.
    UNREACHABLE = "unreachable"
    #: It announced another word: it is of a newer version.
    UNKNOWN = "unknown"


class LinkKind(str, Enum):
    """Where a link of a job leads."""

    WANDB = "wandb"
    SWANLAB = "swanlab"
    #: The repository that its policy was pushed to.
    HUB = "hub"


@dataclass(frozen=True, kw_only=True)
class Link:
    """An https:// address of a job."""

    kind: LinkKind
    url: str


@dataclass(frozen=True, kw_only=True)
class CheckpointView:
    """A verified checkpoint."""

    step: int
    #: Bytes of all its files; None where that is not recorded.
    bytes: int | None = None
    #: When it was reported; None for one that an older version wrote.
    saved_ms: int | None = None
    #: Whether its user keeps it, or a job starts from it; lists do not read that, only a job's details.
    pinned: bool = False
    #: Whether the newest copy elsewhere is of this step or of a later one.
    copied: bool = False


@dataclass(frozen=True, kw_only=True)
class JobView:
    """One job, as far as lists show it."""

    id: str
    name: str
    #: Who submitted it, user@host.
    user: str
    state: State
    #: The word for it that people read: one that waits for another job is not held (`Record.label`).
    label: str
    #: low, normal, high or urgent.
    priority: str
    #: What a running job does now, in words of its box: `downloading 3.1/14 GB`, `compiling`.
    phase: str
    #: `cancel` where its user has asked for that; "" otherwise.
    wish: str
    #: Why it ended or was interrupted last, in what words, and what its user can do.
    reason: Reason | None
    detail: str
    next_step: str
    #: From 0 to 1; None while its last step is unknown.
    progress: float | None
    step: int | None
    steps: int | None
    #: Seconds to its end, saves included, as of its last report.
    eta_seconds: float | None
    #: May be infinite or no number where training diverged.
    loss: float | None
    lr: float | None
    step_seconds: float | None
    #: Seconds that its trainers lived, over all runs.
    trained_seconds: float
    #: Its owner, or the last one.
    box: str
    #: The numbers of its cards on that box.
    cards: tuple[int, ...]
    #: Its claim number and its attempts.
    claim: int
    attempt: int
    #: GPUs, and MiB of VRAM on each and of disk.
    gpus: int
    vram_mib: int
    disk_mib: int
    checkpoint: CheckpointView | None
    links: tuple[Link, ...]
    #: How many jobs come before it in the queue; None for one that is far behind, or in no queue.
    place: int | None
    #: Why it has not started; None for one that runs or has ended.
    wait: Wait | None
    created_ms: int
    updated_ms: int
    queued_ms: int | None
    started_ms: int | None
    ended_ms: int | None


@dataclass(frozen=True, kw_only=True)
class CardView:
    """One GPU of a box. `used_mib`, `promised_mib` and `free_mib` add up to `total_mib`."""

    box: str
    #: Its number on the box.
    number: int
    uuid: str
    name: str
    total_mib: int
    #: Measured as used, by whomever.
    used_mib: int
    #: Promised to jobs that do not use it yet.
    promised_mib: int
    free_mib: int
    #: From 0 to 1: the share of the last second in which it worked; None where the box does not say so.
    utilisation: float | None
    #: Degrees Celsius; None where the box does not say so.
    temperature: int | None
    #: PI0Q_FAKE_GPUS describes it.
    simulated: bool
    #: Ids of the jobs that it is promised to.
    jobs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CacheView:
    """A repository that lies complete in a box's cache."""

    #: owner/name; datasets/owner/name.
    name: str
    mib: int


@dataclass(frozen=True, kw_only=True)
class BoxView:
    """One box, as it announced itself last."""

    name: str
    status: BoxStatus
    #: Since its last heartbeat.
    seen_seconds: float
    cards: tuple[CardView, ...]
    #: Ids of the jobs that it owns, as far as they are read.
    jobs: tuple[str, ...]
    slots: int
    used_slots: int
    #: Its data disk; `disk_mib` is 0 where an older version does not say it.
    disk_free_mib: int
    disk_mib: int
    #: Its PI0Q_HOME, and the version of LeRobot that it runs.
    home: str
    lerobot: str
    #: Its Hugging Face cache, and the repositories that lie in it whole, datasets as `datasets/…`.
    hf_home: str
    cached: tuple[str, ...]
    #: What keeps it from jobs, in words: "" for nothing.
    note: str
    #: Why it takes no job at all now; None where nothing does.
    blocked: Refusal | None
    #: Who drained it and why, in words.
    drain_text: str
    #: What it does while it has no card; None where it has, or is no such box.
    staging: Staging | None = None
    #: The largest repositories in its cache.
    caches: tuple[CacheView, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BrokenJob:
    """A job whose record cannot be read."""

    id: str
    damage: str


@dataclass(frozen=True, kw_only=True)
class FleetView:
    """Everything that a page of the fleet shows, read at one moment."""

    now_ms: int
    boxes: tuple[BoxView, ...]
    #: Owned by a box: claimed, preparing or running.
    running: tuple[JobView, ...]
    #: In the order in which boxes take them.
    queue: tuple[JobView, ...]
    #: Not in the queue: held by a user, or waiting for another job or a time (`JobView.wait` says which).
    held: tuple[JobView, ...]
    #: The newest end first.
    ended: tuple[JobView, ...]
    broken: tuple[BrokenJob, ...]
    #: Of all jobs, also those that are not read.
    counts: Counts

    @property
    def cards(self) -> tuple[CardView, ...]:
        """Return the cards of all boxes that can be reached."""
        gone = (BoxStatus.UNREACHABLE, BoxStatus.STOPPED)
        return tuple(card for box in self.boxes if box.status not in gone for card in box.cards)

    @property
    def jobs(self) -> tuple[JobView, ...]:
        """Return all jobs of the view in the order of a list."""
        return self.running + self.queue + self.held + self.ended

    def job(self, job_id: str) -> JobView | None:
        """Return the job of this id; None if the view has none."""
        return next((job for job in self.jobs if job.id == job_id), None)


def plain(value: Any) -> Any:
    """Return a value of this module as JSON can hold it: enums by their values, numbers that are none as null."""
    if isinstance(value, Refusal):
        return {**plain(value.to_json()), "text": str(value)}
    if isinstance(value, Wait):
        return {**{one.name: plain(getattr(value, one.name)) for one in fields(value)}, "text": str(value)}
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
