"""Vouches for each checkpoint that the trainer finished, beside the training: 23 GB take half a minute and more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pi0q.jobs.record import Saved
from pi0q.workers.run import saves
from pi0q.workers.run.copies import Copies
from pi0q.workers.run.demand import Demand
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.log import Log


class Sealing:
    """One thread: checkpoints are sealed in the order in which they were saved, and older ones removed behind them."""

    def __init__(
        self,
        checkpoints: Path,
        *,
        epoch: int,
        keep: int,
        lease: Lease,
        log: Log,
        copies: Copies | None,
        sealed: Callable[[Saved], None],
        show: Callable[[str], None],
        demand: Demand | None,
        over: Callable[[Saved | None], None] = lambda _: None,
    ) -> None:
        """`sealed` is called with each that is vouched for, `show` with what is done now.

        `demand` knows what its user wished, `copies` gets each; None for nothing. `over` is called with each that was
        looked at, None if it can't be vouched for, once older ones are removed.
        """
        self.checkpoints, self.epoch, self.keep = checkpoints, epoch, keep
        self.lease, self.log, self.sealed, self.show, self.demand = lease, log, sealed, show, demand
        self.over, self.copies = over, copies
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sealing")

    def add(self, step: int, path: Path) -> None:
        """The trainer finished this one."""
        self._pool.submit(self._seal, step, path)

    def close(self) -> None:
        """Waits until all of them are done."""
        self._pool.shutdown()

    def _seal(self, step: int, path: Path) -> None:
        self.show(f"verifying step {step}")
        saved = None
        try:
            saved = self._vouch(step, path)
        finally:
            self.show("")
            self.over(saved)

    def make_room(self, free: Callable[[Callable[[], list[int]], Lease], None]) -> None:
        """Frees what it may, in turn with the seals; `free` gets what removes all checkpoints but the newest."""
        self._pool.submit(free, self._newest_alone, self.lease)

    def _vouch(self, step: int, path: Path) -> Saved | None:
        try:
            saved = saves.seal(path, step=step, epoch=self.epoch, ours=self.lease.ours)
        except saves.NotOurs:
            self.log.say(
                f"the lease ended before the checkpoint of step {step} was vouched for; nothing more is written"
            )
            return None
        except (OSError, ValueError) as error:
            self.log.say(f"the checkpoint of step {step} could not be vouched for: {error}")
            if self.demand:
                self.demand.unsealed(step, str(error))
            return None
        if self.copies:
            # First: then the one that waits to be copied is never one that goes.
            self.copies.offer(saved)
        gone = self._prune()
        self.log.say(f"checkpoint {step} verified, {saved.bytes / 1e6:.0f} MB" + (f"; removed {gone}" if gone else ""))
        self.sealed(saved)
        if self.demand:
            self.demand.sealed(saved)
        return saved

    def _newest_alone(self) -> list[int]:
        if self.copies:
            self.copies.give_way()
        return self._prune(1)

    def _prune(self, keep: int | None = None) -> list[int]:
        """Removes what newer ones replaced; a disk that refuses that is no fault of the new one."""
        pins = self.demand.pins if self.demand else None
        if pins:
            pins.write()
        try:
            stay = {*(pins.steps if pins else ()), *(self.copies.copying() if self.copies else ())}
            return saves.prune(self.checkpoints, keep or self.keep, pinned=stay, ours=self.lease.ours)
        except saves.NotOurs:
            self.log.say("the lease ended before older checkpoints were removed; they stay")
        except OSError as error:
            self.log.say(f"an older checkpoint could not be removed: {error}")
        return []
