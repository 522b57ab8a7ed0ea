"""Client of replicate_main: a request as values, the last line of its answer as a result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pi0q.jobs import replicas
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import helper_process
from pi0q.workers.host.helper_process import ChildFailed

#: Called with the bytes that are through and the bytes in all.
ShowAmount = Callable[[int, int], None]

_SILENT = "the replication process ended without a result"


@dataclass(frozen=True, kw_only=True)
class ReplicaTarget:
    """Where the copies of one job go, and under which claim and lease they are written."""

    #: A directory or hf://owner/name; "" where the job wants no copies.
    place: str
    job_id: str
    epoch: int
    #: How many copies are kept there.
    keep: int
    #: The lease file of the run; "" where the job has ended and no lease is needed.
    lease: str = ""

    @classmethod
    def of(cls, spec: Spec, *, job_id: str, epoch: int, lease: Path) -> ReplicaTarget:
        """Return the target that the job file names."""
        return cls(
            place=replicas.place_of(spec), job_id=job_id, epoch=epoch, keep=spec.checkpoints.keep, lease=str(lease)
        )

    def copied(self, record: Record) -> Saved | None:
        """Return the newest copy that the record knows in this place."""
        return record.copied if record.copied and replicas.place_in(record.copied) == self.place else None

    def request(self, act: str) -> dict[str, Any]:
        """Return what every request to replicate_main holds."""
        return {
            "act": act,
            "place": self.place,
            "job": self.job_id,
            "epoch": self.epoch,
            "lease": self.lease,
            "keep": self.keep,
        }


@dataclass(frozen=True, kw_only=True)
class CopyRequest:
    """One checkpoint to copy."""

    checkpoint: Saved
    #: Steps whose copies are not removed.
    spared: Collection[int]
    #: Whether large files go through the Hub's newer store, which is another host than its older one.
    xet: bool


class CopyOutcome(Enum):
    """How one copy ended."""

    COPIED = "copied"
    #: Another try may succeed.
    FAILED = "failed"
    #: The checkpoint itself is damaged: another try would fail as well.
    DAMAGED = "damaged"
    CANCELLED = "cancelled"
    #: The lease ended, or a later claim copies by now.
    LEASE_ENDED = "lease ended"


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """How one copy ended, with its details."""

    outcome: CopyOutcome
    #: Where the copy lies, if it was made.
    path: str = ""
    #: Steps of older copies that were removed.
    removed: tuple[int, ...] = ()
    #: Why it was not made.
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """What came of looking for a newer copy."""

    #: Name of the checkpoint that was fetched; "" where there is no newer good copy.
    name: str = ""
    #: Where its copy lies.
    path: str = ""
    error: str = ""
    #: Whether the lease ended first.
    lease_ended: bool = False


def copy(
    target: ReplicaTarget, request: CopyRequest, settings: Settings, *, over: threading.Event, show: ShowAmount
) -> CopyResult:
    """Copy a checkpoint to the target, and remove the copies that it replaces; `over` cancels the copy."""
    order = {
        **target.request("copy"),
        "checkpoint": request.checkpoint.path,
        "spared": sorted(request.spared),
        "xet": request.xet,
    }
    last = dict[str, Any]()
    try:
        for last in helper_process.send(order, settings, over=over):
            if last.get("total"):
                show(int(last["done"]), int(last["total"]))
    except ChildFailed as error:
        return CopyResult(outcome=CopyOutcome.FAILED, error=str(error))
    return _copy_result(last, cancelled=over.is_set())


def _copy_result(last: Mapping[str, Any], *, cancelled: bool) -> CopyResult:
    """Read the last line of the replication process."""
    if "copied" in last:
        return CopyResult(outcome=CopyOutcome.COPIED, path=str(last["copied"]), removed=tuple(last["gone"]))
    if cancelled:
        return CopyResult(outcome=CopyOutcome.CANCELLED)
    if "lost" in last:
        return CopyResult(outcome=CopyOutcome.LEASE_ENDED, error=str(last["lost"]))
    outcome = CopyOutcome.DAMAGED if last.get("damaged") else CopyOutcome.FAILED
    return CopyResult(outcome=outcome, error=str(last.get("failed") or _SILENT))


def fetch(
    request: Mapping[str, Any], settings: Settings, *, over: threading.Event, show: Callable[[Mapping[str, Any]], None]
) -> FetchResult:
    """Bring a copy back as the request says; `show` gets each line of progress and each damaged copy."""
    last = dict[str, Any]()
    try:
        for last in helper_process.send(request, settings, over=over):
            show(last)
    except ChildFailed as error:
        return FetchResult(error=str(error))
    if "lost" in last:
        return FetchResult(lease_ended=True)
    if over.is_set() and "fetched" not in last:
        return FetchResult(error="cancelled")
    if "failed" in last or not last:
        return FetchResult(error=str(last.get("failed") or _SILENT))
    return FetchResult(name=str(last.get("fetched") or ""), path=str(last.get("from") or ""))
