"""What a runner has where checkpoints are copied: a stand-in for the replication process, a run, records."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pi0q.jobs.record import Record, Saved, from_hash
from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.checkpoints.replicate_client import ReplicaTarget
from pi0q.workers.checkpoints.replicator import Replicator
from pi0q.workers.checkpoints.restore import Restorer
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.lease import Lease, boottime
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_directory import RunDirectory
from tests.rig.cluster import wait

JOB = """
name: n
resources: {gpus: 0}
checkpoints: {keep: 2, copy_to: PLACE}
train: {dataset: {repo_id: l/d}, policy: {type: act, device: cpu}}
"""

#: The replication process runs at the lowest priority, behind everything else that is busy.
PATIENCE = 120.0


class ReplicationStandIn:
    """Answers in place of the replication process; each request waits for its answer."""

    def __init__(self) -> None:
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def send(
        self, request: Mapping[str, Any], settings: Settings, *, over: threading.Event
    ) -> Iterator[dict[str, Any]]:
        self.requests.put(dict(request))
        while not over.is_set():
            try:
                yield self.answers.get(timeout=0.01)
                return
            except queue.Empty:
                continue

    def step(self) -> int:
        """The step whose copy was requested."""
        return int(Path(self.requests.get(timeout=PATIENCE)["checkpoint"]).name)


class Run:
    """What a runner has; closed at the end of the test."""

    def __init__(self, place: Path, to: str, settings: Settings) -> None:
        self.directory = RunDirectory(place / "run")
        self.directory.make()
        self.progress = Progress(SaveSchedule(steps=0, save_freq=10, every_seconds=None))
        self.lease = Lease(self.directory.lease, seconds=10**6, fence=10**6, since=boottime())
        self.spec, self.settings = parse(JOB.replace("PLACE", to), filename="job.yaml"), settings
        self.opened: list[Replicator] = []

    def target(self, epoch: int = 1) -> ReplicaTarget:
        return ReplicaTarget.of(self.spec, job_id="a1a1a1a1a1a1", epoch=epoch, lease=self.directory.lease)

    def replicator(self, record: Record | None = None, *, epoch: int = 1, **settings: Any) -> Replicator:
        pins = Pins(self.directory.checkpoints, ())
        made = Replicator(
            self.target(epoch),
            replace(self.settings, **settings),
            record=record or known(),
            progress=self.progress,
            pins=pins,
        )
        self.opened.append(made)
        return made

    def restorer(self, *, epoch: int = 2, signers: Mapping[str, Any] | None = None) -> Restorer:
        return Restorer(
            target=self.target(epoch),
            settings=self.settings,
            directory=self.directory,
            progress=self.progress,
            over=threading.Event(),
            signers=signers,
        )

    def close(self) -> None:
        for one in self.opened:
            one.close()


def known(**fields: Any) -> Record:
    return replace(from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "running", "created_ms": "5"}), **fields)


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"/data/{step:06d}", manifest=f"{step:064x}", bytes=1_000_000)


def copy(step: int, place: str = "/share") -> Saved:
    return replace(saved(step), path=f"{place}/a1a1a1a1a1a1/{step:06d}")


def until(true: Any) -> None:
    wait(true, "what is waited for", seconds=PATIENCE)
