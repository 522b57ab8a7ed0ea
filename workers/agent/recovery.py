"""Recover from the death of a runner, worker, box or server: decide who owns what from this box's disk."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Container
from pathlib import Path

import redis

from pi0q.jobs import transition
from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.outcome import Reason
from pi0q.jobs.printable import printable
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_base import script_failed
from pi0q.queue.store_types import Claimant
from pi0q.workers.host import process_tree
from pi0q.workers.host.identity import Identity
from pi0q.workers.runs import ledger as ledgers
from pi0q.workers.runs.ledger import Ledger
from pi0q.workers.runs.run_directory import RunDirectory

logger = logging.getLogger(__name__)


class Recovery:
    """Recovery of the jobs of one box."""

    def __init__(
        self, settings: Settings, store: Store, identity: Identity, *, end_orphans: Callable[[], object]
    ) -> None:
        self.settings, self.store, self.identity = settings, store, identity
        self.end_orphans = end_orphans
        #: Claims of another machine of this name, each warned of once.
        self._foreign_claims: set[tuple[str, int]] = set()
        #: Ledgers that could not be replayed, and why.
        self._passed_over: dict[Path, str] = {}

    @property
    def name(self) -> str:
        return self.identity.name

    def directory(self, job_id: str) -> RunDirectory:
        return RunDirectory(self.settings.runs / job_id)

    def ledger(self, job_id: str, epoch: int) -> Ledger | None:
        """Return this box's ledger of its run of the job under this claim number, if there is one."""
        ledger = ledgers.read(self.directory(job_id).ledger)
        return ledger if ledger and (ledger.job_id, ledger.epoch, ledger.box) == (job_id, epoch, self.name) else None

    def least_epoch(self, job_id: str) -> int:
        """Return a claim number above every one that this box had the job under, whatever an older server says."""
        ledger = ledgers.read(self.directory(job_id).ledger)
        return ledger.epoch + 1 if ledger else 0

    def replay(self) -> list[str]:
        """Replay this box's ledgers to a server that may know less; return the jobs that are in the queue again.

        A run with a live runner is left to it. A run that ended without the server's knowledge ends as its runner
        decided; any other was interrupted.
        """
        requeued = []
        for path in sorted(self.settings.runs.glob("*/ledger.json")):
            try:
                requeued += self._replay(path)
            except (BadRecord, NotFound, OSError) as error:
                self._pass_over(path, str(error).partition("\n")[0])
            except redis.ResponseError as error:
                if not script_failed(error):
                    raise
                self._pass_over(path, str(error))
        return requeued

    def _replay(self, path: Path) -> list[str]:
        """Replay one ledger; return the job if it is in the queue again. Raises BadRecord, NotFound, OSError."""
        ledger = ledgers.load(path)
        if ledger is not None and ledger.job_id != path.parent.name:
            raise BadRecord(path.parent.name, path.name, "is that of another job")
        if ledger is None or ledger.box != self.name or not self._restored(ledger):
            return []
        if self.directory(ledger.job_id).live_runner(ledger.epoch) is not None:
            return []
        record = self.settle_run(ledger.job_id, ledger.epoch, *self._interruption(ledger.boot))
        return [record.id] if record.state is State.QUEUED else []

    def _pass_over(self, path: Path, why: str) -> None:
        """Leave a ledger that cannot be replayed where it is, and say so once: the others must be replayed."""
        if self._passed_over.get(path) != why:
            self._passed_over[path] = why
            logger.warning("passed over the ledger %s: %s", path, printable(why, lines=False))

    def _restored(self, ledger: Ledger) -> bool:
        """Restore the job on the server; return whether it now knows this box as the owner."""
        return self.store.restore(
            ledger.job_id,
            ledger.epoch,
            Claimant(box=ledger.box, boot=ledger.boot, lease_seconds=self.settings.lease_seconds),
            fields=ledger.fields,
            runs=self.directory(ledger.job_id).live_runner(ledger.epoch) is not None,
            text=f"the queue's server had older data: {self.name} has this job",
        )

    def _interruption(self, boot: str) -> tuple[Reason, str]:
        if boot != self.identity.boot:
            return Reason.BOX_RESTARTED, f"{self.name} restarted"
        return Reason.RUNNER_LOST, "runner and worker died"

    def settle_run(self, job_id: str, epoch: int, reason: Reason, detail: str) -> Record:
        """Settle a run whose runner ended: kill what is left of it, then move the job as its runner had decided.

        A runner that had decided nothing was interrupted, for `reason`. Raises NotFound, and BadRecord where the
        record cannot be read: then only the processes are killed, and the lease runs out.
        """
        try:
            record = self.store.get(job_id)
        except BadRecord:
            process_tree.kill_all(job_id, epoch)
            self.end_orphans()
            raise
        if record.epoch != epoch or record.state not in OWNED or record.box != self.name:
            return record
        unkillable = process_tree.kill_all(job_id, epoch)
        self.end_orphans()
        ledger = self.ledger(job_id, epoch)
        if unkillable:
            self._drain(unkillable)
        if ledger is not None and ledger.ending is not None:
            last = ledger.ending.transition(epoch)
            if last.to is State.SUCCEEDED:
                # The server may not know yet that the trainer ran.
                self.store.move(job_id, transition.running(epoch, text="its trainer lived", started_ms=None))
        else:
            last = transition.ended(record, epoch, reason, detail)
        self.store.move(job_id, last, box=self.name)
        return self.store.get(job_id)

    def _drain(self, unkillable: list[int]) -> None:
        """Keep the box from new jobs: it can't give back what these processes hold."""
        pids = ", ".join(map(str, unkillable))
        text = f"process {pids} can't be killed (it hangs in its driver or on a dead disk); restart the box"
        logger.error("%s: %s", self.name, text)
        self.store.drain(self.name, "drain", text=text)

    def reconcile(self, attended: Container[tuple[str, int]], *, at_start: bool = False) -> list[str]:
        """Reconcile jobs of this box that no thread attends: after a restart, or when a message was lost.

        Returns the jobs that are in the queue again.
        """
        now, requeued = self.store.now_ms(), []
        for record in self.store.owned(self.name):
            if (record.id, record.epoch) in attended:
                continue
            live = self.directory(record.id).live_runner(record.epoch)
            fresh = now - record.updated_ms < self.settings.timing.stalled * 1000
            if live is not None or record.state is State.CLAIMED:
                if at_start or live is not None or not fresh:
                    self.store.redeliver(record.id, self.name)
            elif self._was_here(record):
                with contextlib.suppress(NotFound, BadRecord):
                    settled = self.settle_run(record.id, record.epoch, *self._interruption(record.boot))
                    requeued += [settled.id] if settled.state is State.QUEUED else []
        return requeued

    def _epochs_here(self, job_id: str) -> set[int]:
        """Return the claim numbers under which something of the job was written on this disk."""
        tag, ledger = self.directory(job_id).pidfile, ledgers.read(self.directory(job_id).ledger)
        epochs = {ledger.epoch} if ledger else set()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            epochs.add(int(json.loads(tag.read_text())["epoch"]))
        return epochs

    def _was_here(self, record: Record) -> bool:
        """Return whether this machine ran it; another of the same name may be running it still."""
        here = record.boot == self.identity.boot or record.epoch in self._epochs_here(record.id)
        if not here and (record.id, record.epoch) not in self._foreign_claims:
            self._foreign_claims.add((record.id, record.epoch))
            logger.warning(
                "%s runs on another machine named %s (no files of it are here); it is requeued when its lease expires",
                record.id,
                self.name,
            )
        return here
