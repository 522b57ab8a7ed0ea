"""Background copies of a run's verified checkpoints (`checkpoints.copy_to`), beside the training.

    on_sealed -> CopyQueue -> [a thread] -> [a process: replicate_main] -> the record's `copied` and `copy_detail`

At most one checkpoint waits: a newer one takes its place. A failed copy costs the training nothing; it is retried
after one minute, then two, up to thirty.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from pi0q.jobs import replicas
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.replicas import CopyState, CopyStatus
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import replicate_client
from pi0q.workers.checkpoints.copy_queue import CopyQueue
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.checkpoints.replicate_client import CopyOutcome, CopyRequest, CopyResult, ReplicaTarget
from pi0q.workers.host.backoff import Backoff
from pi0q.workers.hub.blobs import amount
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress

log = logging.getLogger(__name__)

RETRY = Backoff(first=60.0, longest=1800.0)
#: Manifests that the record holds at most, of the newest steps: some are of checkpoints that were never copied.
MOST_MANIFESTS = 50
#: Seconds that the thread has to end at the end of the run.
JOIN_SECONDS = 10.0


class Replicator(TrainerListener):
    """Copies one run's checkpoints to its target; does nothing where the job wants no copies."""

    def __init__(
        self, target: ReplicaTarget, settings: Settings, *, record: Record, progress: Progress, pins: Pins
    ) -> None:
        """`pins`: steps that the user keeps, here and at the target."""
        self.target, self.settings, self.progress, self.pins = target, settings, progress, pins
        #: The newest verified copy.
        self.copied = target.copied(record)
        #: How the newest checkpoint stands against its copy.
        self.status = CopyStatus(state=CopyState.IDLE)
        #: The manifests that the record vouches for, by step.
        self._manifests = dict(record.manifests)
        self._newest: Saved | None = None
        self._queue = CopyQueue(RETRY)
        self._thread: threading.Thread | None = None
        if target.place:
            progress.update(copied=self.copied)
            self._show(self.status)

    @property
    def closed(self) -> threading.Event:
        """Set at the end of the run."""
        return self._queue.closed

    # -- beside the training --------------------------------------------------------------------------

    def resume(self, checkpoint: Saved | None, copied: Saved | None) -> None:
        """Begin from what was found at the start of a run: its newest checkpoint and its newest good copy."""
        if not self.target.place:
            return
        self.copied = copied
        self.progress.update(copied=copied)
        if checkpoint and (copied is None or checkpoint.step > copied.step):
            self.offer(checkpoint)

    def on_sealed(self, saved: Saved | None) -> None:
        if saved:
            self.offer(saved)

    def offer(self, saved: Saved) -> None:
        """Copy a verified checkpoint when its turn comes, unless a newer one is offered before."""
        if not self.target.place:
            return
        self._newest = saved
        self._vouch(saved)
        if not self.behind() or not self._queue.put(saved):
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="replicator", daemon=True)
            self._thread.start()
        running = self._queue.running
        if running and running is not saved:
            self._show(CopyStatus(state=CopyState.WAITING, step=saved.step, running=running.step))

    def copying(self) -> Collection[int]:
        """Return the step that is copied now, if any: its files must stay."""
        running = self._queue.running
        return (running.step,) if running else ()

    def give_way(self) -> None:
        """Cancel the copy of a checkpoint that a newer one replaces, to free its disk space.

        The copy of a pinned checkpoint goes on: its files stay in any case.
        """
        if replaced := self._queue.abort_replaced(self.pins.steps):
            log.info(
                "cancelled the copy of checkpoint %d: its disk space is needed, and a newer one waits", replaced.step
            )
            self._queue.await_end_of(replaced)

    def behind(self) -> Saved | None:
        """Return the newest checkpoint if it is not copied yet."""
        newest, copied = self._newest, self.copied
        return None if newest is None or (copied and copied.manifest == newest.manifest) else newest

    # -- at the end -----------------------------------------------------------------------------------

    def finish(self, give_up: Callable[[], bool]) -> None:
        """Wait for the copy of the newest checkpoint until `give_up`; a failed one is tried once more, at once."""
        if left := self._queue.drain(give_up):
            log.warning("the copy of checkpoint %d was not complete in time", left.step)
        behind = self.behind()
        if behind and self.status.state is not CopyState.FAILED:
            self._show(CopyStatus(state=CopyState.OUT_OF_TIME, step=behind.step))

    def close(self) -> None:
        """End the thread and its process; the bytes that have arrived at the target stay for the next try."""
        self._queue.close()
        if self._thread:
            self._thread.join(JOIN_SECONDS)

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (saved := self._queue.take()) is not None:
            self._queue.done(saved, retry=self._copy(saved))

    def _copy(self, saved: Saved) -> bool:
        """Copy one checkpoint; return whether another try may succeed."""
        began = time.monotonic()
        self._show(CopyStatus(state=CopyState.COPYING, step=saved.step))

        def show(done: int, total: int) -> None:
            self.progress.beside("copying", f"copying step {saved.step}, {amount(done, total)}")

        result = replicate_client.copy(
            self.target,
            CopyRequest(checkpoint=saved, spared=self.pins.steps, xet=self._queue.failures % 2 == 0),
            self.settings,
            over=self._queue.abort,
            show=show,
        )
        self.progress.beside("copying", "")
        if result.outcome is CopyOutcome.COPIED:
            self._copied(saved, result, time.monotonic() - began)
        elif result.outcome in (CopyOutcome.FAILED, CopyOutcome.DAMAGED):
            return self._failed(saved, result)
        return False

    def _copied(self, saved: Saved, result: CopyResult, seconds: float) -> None:
        self.copied = replace(saved, path=result.path)
        for step in result.removed:
            self._manifests.pop(str(step), None)
        self._vouch(saved)
        self.progress.update(copied=self.copied)
        self._show(CopyStatus(state=CopyState.IDLE))
        removed = f"; removed its copies of {list(result.removed)}" if result.removed else ""
        size = replicas.amount(saved.bytes)
        log.info("copied checkpoint %d to %s, %s in %.0f s%s", saved.step, result.path, size, seconds, removed)

    def _vouch(self, saved: Saved) -> None:
        """Let the record name the manifest, before the copy is made: boxes restore no copy that it does not name."""
        self._manifests[str(saved.step)] = saved.manifest
        for step in sorted(self._manifests, key=int)[:-MOST_MANIFESTS]:
            del self._manifests[step]
        self.progress.update(manifests=dict(self._manifests))

    def _failed(self, saved: Saved, result: CopyResult) -> bool:
        retry = result.outcome is CopyOutcome.FAILED
        delay = self._queue.retry_delay() if retry else None
        status = CopyStatus(state=CopyState.FAILED, step=saved.step, error=result.error, retry_seconds=delay)
        self._show(status)
        log.warning("checkpoint %d is not copied: %s; the training goes on", saved.step, status.failure())
        return retry

    def _show(self, status: CopyStatus) -> None:
        self.status = status
        self.progress.update(copy_detail=status.text())
