"""After a death of runner, worker, box or server: who owns what, told from what lies on this box's disk."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Container

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.identity import Identity
from pi0q.workers.run import ledger as ledgers
from pi0q.workers.run import process
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.ledger import Ledger

logger = logging.getLogger("pi0q")


class Recovery:
    """Puts right what deaths left behind, for the jobs of one box."""

    def __init__(
        self, settings: Settings, store: Store, identity: Identity, *, end_orphans: Callable[[], object]
    ) -> None:
        self.settings, self.store, self.identity = settings, store, identity
        self.end_orphans = end_orphans
        self._left: set[tuple[str, int]] = set()

    @property
    def name(self) -> str:
        return self.identity.name

    def directory(self, job_id: str) -> RunDirectory:
        return RunDirectory(self.settings.runs / job_id)

    def ledger(self, job_id: str, epoch: int) -> Ledger | None:
        """What this box wrote down of its run of the job under this epoch."""
        found = ledgers.read(self.directory(job_id).ledger)
        return found if found and (found.job_id, found.epoch, found.box) == (job_id, epoch, self.name) else None

    def least_epoch(self, job_id: str) -> int:
        """One more than any epoch that this box had the job under, whatever an older server says."""
        found = ledgers.read(self.directory(job_id).ledger)
        return found.epoch + 1 if found else 0

    def replay(self) -> list[str]:
        """Tells the server what this box's ledgers know and it may not; the jobs that are in the queue again.

        A run that goes on is left to its runner. One that ended, but whose end the server does not know, ends as its
        runner decided; any other was interrupted.
        """
        back = []
        for path in sorted(self.settings.runs.glob("*/ledger.json")):
            found = ledgers.read(path)
            if found is None or found.box != self.name or not self._restored(found):
                continue
            if self.directory(found.job_id).live_runner(found.epoch) is None:
                record = self.settle(found.job_id, found.epoch, *self._why(found.boot))
                back += [record.id] if record.state is State.QUEUED else []
        return back

    def _restored(self, found: Ledger) -> bool:
        """Whether the server knows now that this box owns the job."""
        return self.store.restore(
            found.job_id,
            found.epoch,
            box=found.box,
            boot=found.boot,
            lease_seconds=self.settings.lease_seconds,
            fields=found.fields,
            runs=self.directory(found.job_id).live_runner(found.epoch) is not None,
            text=f"the queue's server had older data: {self.name} has this job",
        )

    def _why(self, boot: str) -> tuple[Reason, str]:
        if boot != self.identity.boot:
            return Reason.BOX_RESTARTED, f"{self.name} restarted"
        return Reason.RUNNER_LOST, "runner and worker died"

    def settle(self, job_id: str, epoch: int, reason: Reason, detail: str) -> Record:
        """After a runner's end: what it had decided is carried out, else it was interrupted; nothing of it lives on."""
        record = self.store.get(job_id)
        if record.epoch != epoch or record.state not in OWNED or record.box != self.name:
            return record
        undead = process.kill_all(job_id, epoch)
        self.end_orphans()
        found = self.ledger(job_id, epoch)
        if undead:
            self._give_up(undead)
        if found is not None and found.ending is not None:
            last = found.ending.transition(epoch)
            if last.to is State.SUCCEEDED:
                # The queue may not even have heard that its trainer lived.
                self.store.move(job_id, transition.running(epoch, text="its trainer lived", started_ms=None))
        else:
            last = transition.ended(record, epoch, reason, detail)
        self.store.move(job_id, last, box=self.name)
        return self.store.get(job_id)

    def _give_up(self, undead: list[int]) -> None:
        pids = ", ".join(map(str, undead))
        text = f"process {pids} can't be killed (it hangs in its driver or on a dead disk); the box wants a restart"
        logger.error("%s: %s", self.name, text)
        self.store.drain(self.name, "drain", text=text)

    def tend(self, attended: Container[tuple[str, int]], *, at_start: bool = False) -> list[str]:
        """Looks after jobs of this box that no thread attends: after a restart, or when a message was lost.

        Returns those that are in the queue again.
        """
        now, back = self.store.now_ms(), []
        for record in self.store.owned(self.name):
            if (record.id, record.epoch) in attended:
                continue
            live = self.directory(record.id).live_runner(record.epoch)
            fresh = now - record.updated_ms < self.settings.timing.stalled * 1000
            if live is not None or record.state is State.CLAIMED:
                if at_start or live is not None or not fresh:
                    self.store.redeliver(record.id, self.name)
            elif self._was_here(record):
                settled = self.settle(record.id, record.epoch, *self._why(record.boot))
                back += [settled.id] if settled.state is State.QUEUED else []
        return back

    def _epochs_here(self, job_id: str) -> set[int]:
        """The epochs under which something of the job was written on this disk."""
        tag, found = self.directory(job_id).tag_file, ledgers.read(self.directory(job_id).ledger)
        epochs = {found.epoch} if found else set()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            epochs.add(int(json.loads(tag.read_text())["epoch"]))
        return epochs

    def _was_here(self, record: Record) -> bool:
        """Whether this machine ran it: another of the same name may have, and may be at work on it still."""
        here = record.boot == self.identity.boot or record.epoch in self._epochs_here(record.id)
        if not here and (record.id, record.epoch) not in self._left:
            self._left.add((record.id, record.epoch))
            logger.warning(
                "%s runs on a machine of the name %s, and nothing of it lies here; it goes back to the queue "
                "when its lease runs out",
                record.id,
                self.name,
            )
        return here
