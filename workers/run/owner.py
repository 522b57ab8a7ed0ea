"""The store as the owner of one claim uses it: each write carries who writes, and an older server is put right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.state import OWNED, State
from pi0q.jobs.transition import Transition, preparing
from pi0q.queue.store import NotOwner, ServerOlder, Store
from pi0q.queue.wishes import Wishes
from pi0q.workers.run.lease import Lease, boottime
from pi0q.workers.run.ledger import KEPT, Ending, Ledger

Answer = TypeVar("Answer")


def take(
    store: Store,
    record: Record,
    raw: Mapping[str, str],
    *,
    epoch: int,
    box: str,
    boot: str,
    lease: float,
    run_dir: Path,
) -> tuple[Ledger, float]:
    """Renews a claim's lease for the first time and moves the job to preparing.

    Returns its ledger and the time from which the lease counts. Raises NotOwner if the job is not this box's to run.
    """
    since = boottime()
    store.report(record.id, epoch, box=box, lease_seconds=lease, fields={})
    taken = preparing(epoch, attempt=record.attempt + 1, run_dir=str(run_dir))
    if store.move(record.id, taken, box=box) is None:
        raise NotOwner(f"{record.id} was taken in hand under epoch {epoch} already")
    fields = {**raw, **to_hash(taken.fields), "state": taken.to.value}
    return Ledger(job_id=record.id, epoch=epoch, box=box, boot=boot, fields=fields), since


class Owner:
    """One box's hold on one job, in Redis and on its own disk. Used by the runner's threads.

    Each call raises NotOwner once the job is another's, and redis.RedisError when the server can't be reached.
    """

    def __init__(self, store: Store, ledger: Ledger, path: Path, lease: Lease, *, say: Callable[[str], None]) -> None:
        self.store, self.ledger, self.path, self.lease, self.say = store, ledger, path, lease, say
        #: How often a server had to be told that the job is ours.
        self.restored = 0
        self._lock = threading.RLock()

    @property
    def known(self) -> Record:
        """The record as this box knows it, whether the server can be asked or not."""
        return from_hash(self.ledger.fields)

    def report(self, fields: Mapping[str, Any], *, log: str = "", log_at: int | None = None) -> Wishes:
        """Renews the lease, tells progress and log (`log_at` bytes into the job's); what the user wishes."""
        self.keep(to_hash(fields))

        def report() -> Wishes:
            since = self.lease.clock()
            wishes = self.store.report(
                self.ledger.job_id,
                self.ledger.epoch,
                box=self.ledger.box,
                lease_seconds=self.lease.seconds,
                fields=fields,
                log=log,
                log_at=log_at,
            )
            self.lease.renewed(since)
            return wishes

        return self._told(report)

    def move(self, transition: Transition) -> State | None:
        """Carries a transition out; None if the job is not in a state from which it may."""
        state = self._told(lambda: self.store.move(self.ledger.job_id, transition, box=self.ledger.box))
        if state in OWNED:
            self.keep({"state": state.value, **to_hash(transition.fields)})
        return state

    def ending(self, last: Transition) -> None:
        """Writes down how the run ends, before the server is told: the box tells it where this process dies first."""
        with self._lock:
            self.ledger = replace(self.ledger, ending=Ending.of(last))
            self.write()

    def keep(self, fields: Mapping[str, str]) -> None:
        """Notes what became of the record; what an older server would need goes to the disk."""
        with self._lock:
            known = self.ledger
            self.ledger = known.with_fields(fields)
            changed = any(known.fields.get(name) != value for name, value in fields.items() if name in KEPT)
            # Past the lease it may be another's; how the run ends is written down all the same, see `ending`.
            if changed and self.lease.ours():
                self.write()

    def write(self) -> None:
        """Puts the ledger on the disk; not any more once the job is another's."""
        if self.lease.revoked:
            return
        try:
            self.ledger.write(self.path)
        except OSError as error:
            # A full disk must not end a training; the server knows all of it as well.
            self.say(f"the ledger of this run could not be written: {error}")

    def _told(self, act: Callable[[], Answer]) -> Answer:
        with self._lock:
            try:
                try:
                    return act()
                except ServerOlder:
                    self._restore()
                    return act()
            except NotOwner:
                self.lease.revoke()
                raise

    def _restore(self) -> None:
        known, since = self.ledger, self.lease.clock()
        ours = self.store.restore(
            known.job_id,
            known.epoch,
            box=known.box,
            boot=known.boot,
            lease_seconds=self.lease.seconds,
            fields=known.fields,
            runs=True,
            text=f"the queue's server came back with older data: {known.box} goes on with it under epoch {known.epoch}",
        )
        if not ours:
            raise NotOwner(f"the server came back with older data, and {known.job_id} is another's now")
        self.lease.renewed(since)
        self.restored += 1
        self.say("the queue's server came back with older data and was told of this run; the training goes on")
