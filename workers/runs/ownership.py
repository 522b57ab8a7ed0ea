"""Fenced writes of a claim's owner to the store; a server with older data is restored first."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import redis

from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.state import OWNED, State
from pi0q.jobs.transition import Transition, noted, preparing
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.store import Store
from pi0q.queue.store_base import script_failed
from pi0q.queue.store_types import Claimant, LogChunk, UserRequests
from pi0q.workers.runs.lease import Lease, boottime
from pi0q.workers.runs.ledger import KEPT, Ending, Ledger

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


def take(
    store: Store, record: Record, raw: Mapping[str, str], *, claimant: Claimant, claim: int, run_dir: Path
) -> tuple[Ledger, float]:
    """Move a claimed job to preparing, which renews its lease for the first time.

    `raw` is the record as it was read. Return the claim's ledger and the time from which the lease counts. Raises
    OwnershipLost if the job is not this box's, and BadRecord if its record cannot be read any more.
    """
    since, box = boottime(), claimant.box
    taken = preparing(claim, attempt=record.attempt + 1, run_dir=str(run_dir))
    if store.move(record.id, taken, box=box, lease_seconds=claimant.lease_seconds) is None:
        raise OwnershipLost(f"{record.id} is not this box's, or has a runner already, under claim {claim}")
    fields = {**raw, **to_hash(taken.fields), "state": taken.to.value}
    from_hash(fields, job_id=record.id)
    return Ledger(job_id=record.id, epoch=claim, box=box, boot=claimant.boot, fields=fields), since


class Ownership:
    """Ownership of one claim, in Redis and in the ledger on the box's disk. Thread-safe.

    Each call raises OwnershipLost once the job is another's, and redis.RedisError when the server can't be reached.
    """

    def __init__(self, store: Store, ledger: Ledger, path: Path, lease: Lease) -> None:
        self.store, self.ledger, self.path, self.lease = store, ledger, path, lease
        #: How often a server had to be told that the job is ours.
        self.restored = 0
        #: Why a script of the server failed at the last call; "" if it did not.
        self.script_error = ""
        self._lock = threading.RLock()

    @property
    def known(self) -> Record:
        """The record as this box knows it, also while the server is away."""
        return from_hash(self.ledger.fields)

    def report(self, fields: Mapping[str, Any], *, log: str = "", log_at: int | None = None) -> UserRequests:
        """Renew the lease, report progress and log (`log_at` bytes into the job's); return the user's requests."""
        self.keep(to_hash(fields))

        def report() -> UserRequests:
            since = self.lease.clock()
            wishes = self.store.report(
                self.ledger.job_id,
                self.ledger.epoch,
                box=self.ledger.box,
                lease_seconds=self.lease.seconds,
                fields=fields,
                log=LogChunk(text=log, at=log_at),
            )
            self.lease.renewed(since)
            return wishes

        return self._call_with_restore(report)

    def put_curve(self, stay: int, points: Sequence[str]) -> int:
        """Replace the end of the job's curve as `Store.put_curve` does; return how many points the server has."""
        known = self.ledger

        def put() -> int:
            return self.store.put_curve(known.job_id, known.epoch, box=known.box, stay=stay, points=points)

        return self._call_with_restore(put)

    def put_rank_logs(self, tails: Mapping[int, str]) -> None:
        """Replace the ends of the logs of the trainer's other ranks; without a server they are told another time."""
        known = self.ledger
        with contextlib.suppress(redis.RedisError, OwnershipLost):
            self.store.put_rank_logs(known.job_id, known.epoch, box=known.box, tails=tails)

    def move(self, transition: Transition) -> State | None:
        """Carry a transition out; return None if the job's state does not allow it."""
        state = self._call_with_restore(lambda: self.store.move(self.ledger.job_id, transition, box=self.ledger.box))
        if state in OWNED:
            self.keep({"state": state.value, **to_hash(transition.fields)})
        return state

    def note(self, text: str) -> None:
        """Add a line to the history of the running job; it is left out where the server is away."""
        with contextlib.suppress(redis.RedisError, OwnershipLost):
            self.move(noted(State.RUNNING, self.ledger.epoch, text=text))

    def ending(self, last: Transition) -> None:
        """Write down how the run ends before reporting it: if this process dies first, the box reports it."""
        with self._lock:
            self.ledger = replace(self.ledger, ending=Ending.of(last))
            self.write()

    def keep(self, fields: Mapping[str, str]) -> None:
        """Take changed fields into the ledger; what a server with older data would need goes to the disk at once."""
        with self._lock:
            known = self.ledger
            self.ledger = known.with_fields(fields)
            changed = any(known.fields.get(name) != value for name, value in fields.items() if name in KEPT)
            # Past the lease it may be another's; how the run ends is written down all the same, see `ending`.
            if changed and self.lease.is_valid():
                self.write()

    def write(self) -> None:
        """Write the ledger to the disk; not any more once the job is another claim's."""
        if self.lease.revoked:
            return
        try:
            self.ledger.write(self.path)
        except OSError as error:
            # A full disk must not end a training; the server knows all of it as well.
            log.info("the ledger of this run could not be written: %s", error)

    def _call_with_restore(self, act: Callable[[], Answer]) -> Answer:
        with self._lock:
            self.script_error = ""
            try:
                try:
                    return act()
                except StaleServer:
                    self._restore()
                    return act()
            except OwnershipLost:
                self.lease.revoke()
                raise
            except redis.ResponseError as error:
                self.script_error = str(error) if script_failed(error) else ""
                raise

    def _restore(self) -> None:
        known, since = self.ledger, self.lease.clock()
        ours = self.store.restore(
            known.job_id,
            known.epoch,
            Claimant(box=known.box, boot=known.boot, lease_seconds=self.lease.seconds),
            fields=known.fields,
            runs=True,
            text=f"the queue's server came back with older data: {known.box} continues it under claim {known.epoch}",
        )
        if not ours:
            raise OwnershipLost(f"the server came back with older data, and another box owns {known.job_id} now")
        self.lease.renewed(since)
        self.restored += 1
        log.info("the queue's server came back with older data and has this run again; the training continues")
