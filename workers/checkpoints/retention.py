"""Which verified checkpoints of a run stay on this disk; the others are removed once a newer one has verified."""

from __future__ import annotations

import logging
from pathlib import Path

from pi0q.jobs.record import Saved
from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.checkpoints.replicator import Replicator
from pi0q.workers.runs.lease import Lease, LeaseExpired
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress

log = logging.getLogger(__name__)


class Retention(TrainerListener):
    """Keeps the newest `keep` checkpoints, the pinned ones, and the one that is being copied.

    As a listener it comes after the Replicator: then the checkpoint that waits to be copied is never one that goes.
    """

    def __init__(
        self,
        checkpoints: Path,
        *,
        keep: int,
        lease: Lease,
        pins: Pins | None = None,
        replicator: Replicator | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`progress` is told which checkpoints are on this disk: other jobs may start from them."""
        self.checkpoints, self.keep, self.lease, self.pins, self.replicator = checkpoints, keep, lease, pins, replicator
        self.progress = progress

    def on_sealed(self, saved: Saved | None) -> None:
        if not saved:
            return
        if removed := self._prune(self.keep):
            log.info("removed checkpoints %s, replaced by newer ones", removed)
        if self.progress:
            self.progress.update(verified=local_store.manifests(self.checkpoints))

    def keep_newest_only(self) -> list[int]:
        """On a low disk: remove all but the newest checkpoint and the pinned ones; return the removed steps."""
        if self.replicator:
            self.replicator.give_way()
        return self._prune(1)

    def _prune(self, keep: int) -> list[int]:
        """Remove replaced checkpoints; a disk that refuses to is no fault of the new checkpoint."""
        if self.pins:
            self.pins.write()
        try:
            stay = {*(self.pins.steps if self.pins else ()), *(self.replicator.copying() if self.replicator else ())}
            return local_store.prune(self.checkpoints, keep, pinned=stay, may_write=self.lease.is_valid)
        except LeaseExpired:
            log.info("the lease expired before older checkpoints were removed; they stay")
        except OSError as error:
            log.info("could not remove an older checkpoint: %s", error)
        return []
