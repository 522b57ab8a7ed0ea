"""Run session: what a runner holds of its run from taking the claim in hand to the end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any

from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, UserRequests
from pi0q.workers.checkpoints.on_demand import CheckpointRequests
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.checkpoints.replicate_client import ReplicaTarget
from pi0q.workers.checkpoints.replicator import Replicator
from pi0q.workers.host import process_tree
from pi0q.workers.runner.disk_outcome import DiskOutcome
from pi0q.workers.runner.pace_report import PaceReport
from pi0q.workers.runner.reporter import Reporter
from pi0q.workers.runner.start_report import StartReport
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runs import ownership as ownerships
from pi0q.workers.runs.disk_usage import DiskUsage
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.ownership import Ownership
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.trainer_log import Log, mirror_into
from pi0q.workers.storage.disk_pressure import SaveSize


class EndLock:
    """Lets one thread alone end the run; any other waits until the end is delivered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Whether a thread has begun to end the run.
        self.begun = False

    @contextlib.contextmanager
    def once(self) -> Iterator[bool]:
        """Hold the lock; yield whether this thread is the first."""
        with self._lock:
            first, self.begun = not self.begun, True
            yield first


class RunSession:
    """Lease, ownership, log and reporter of one run; a context manager that reports from its begin to its end."""

    def __init__(self, context: RunContext, store: Store, stops: StopRequests) -> None:
        """Take the claim in hand. Raises OwnershipLost if the job is not this box's to run (or twice), and OSError."""
        self.context, self.stops = context, stops
        epoch, directory, record = context.epoch, context.directory, context.record
        timing = context.settings.timing
        claimant = Claimant(box=context.box, boot=context.request.boot or record.boot, lease_seconds=timing.lease)
        ledger, since = ownerships.take(
            store, record, context.raw, claimant=claimant, claim=epoch, run_dir=directory.path
        )
        #: Whether what an earlier runner wrote is on the disk or in the host's memory for certain.
        self.same_host_boot = _enter(context)
        self.log, self._mirror = Log(directory.log, os.environ), contextlib.ExitStack()
        self._mirror.enter_context(mirror_into(self.log))
        self.log.say(f"attempt {record.attempt + 1}, claim {epoch} on {context.box}")
        self.lease = Lease(directory.lease, seconds=timing.lease, fence=timing.fence, since=since)
        self.ownership = Ownership(store, ledger, directory.ledger, self.lease)
        self.ownership.write()
        self.usage, self.disk = DiskUsage(directory), DiskOutcome(context, SaveSize(context.spec))
        self.progress = Progress.of(record, context.spec)
        pins = Pins(directory.checkpoints, record.protected_steps)
        self.checkpoint_requests = CheckpointRequests(record, self.progress, pins)
        target = ReplicaTarget.of(context.spec, job_id=context.job_id, epoch=epoch, lease=directory.lease)
        self.replicator = Replicator(target, context.settings, record=record, progress=self.progress, pins=pins)
        self.start_report = StartReport(self.ownership, started_before=record.started_ms is not None)
        self.reporter = Reporter(
            self.ownership,
            timing,
            collect_changes=self._collect_changes,
            resend_all=self.progress.resend_all,
            request_stop=stops.request,
            on_requests=partial(self._on_answer, PaceReport(context, self.progress)),
        )
        self.end = EndLock()

    def __enter__(self) -> RunSession:
        self.reporter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reporter.stop()
        self._mirror.close()

    def _on_answer(self, pace: PaceReport, requests: UserRequests) -> None:
        """Take what the user requests of this run; the server answers, so curve, pace and logs of ranks may follow."""
        self.checkpoint_requests.on_requests(requests)
        self.progress.curve.send(self.ownership, over=self.end.begun)
        if not self.end.begun:
            pace.send(self.ownership.store, time.monotonic())
        if not self.end.begun and (tails := self.log.ranks.take()):
            self.ownership.put_rank_logs(tails)

    def _collect_changes(self) -> tuple[dict[str, Any], str]:
        """Return what the reporter is to report: changed fields and new lines of the log."""
        self.start_report.send()
        return self.progress.take(), self.log.take()


def _enter(context: RunContext) -> bool:
    """Make the run directory this process's own; return whether the host runs since the last runner did so."""
    directory = context.directory
    directory.make()
    if predecessor := directory.other_runner(context.epoch):
        process_tree.send(predecessor, signal.SIGKILL)
    same_host_boot = directory.same_host_boot()
    directory.write_pidfile(context.job_id, context.epoch)
    return same_host_boot
