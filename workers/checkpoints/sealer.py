"""Seal each checkpoint that the trainer has finished, beside the training: 23 GB take half a minute and more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pi0q.jobs.record import Saved
from pi0q.workers.checkpoints import local_store
from pi0q.workers.runs.lease import Lease, LeaseExpired
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress

log = logging.getLogger(__name__)


class Sealer(TrainerListener):
    """One thread: seals checkpoints in the order in which they were saved, and notifies each listener, in order."""

    def __init__(
        self,
        epoch: int,
        lease: Lease,
        progress: Progress,
        listeners: Sequence[TrainerListener],
        *,
        sign: local_store.Sign = local_store.unsigned,
    ) -> None:
        """`sign`: gives each manifest the signature of this box."""
        self.epoch, self.lease, self.progress, self.listeners, self.sign = epoch, lease, progress, listeners, sign
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sealer")

    def on_event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "saved":
            self.add(int(event["step"]), Path(str(event["path"])))

    def add(self, step: int, path: Path) -> None:
        """Seal a checkpoint when its turn comes."""
        self._pool.submit(self._process, step, path)

    def run_in_turn(self, act: Callable[[], object]) -> None:
        """Run an act between two seals, in the sealer's thread."""
        self._pool.submit(act)

    def on_exit(self) -> None:
        """Wait until all checkpoints are sealed and all acts are done."""
        self._pool.shutdown()

    def _process(self, step: int, path: Path) -> None:
        self.progress.beside("sealing", f"verifying step {step}")
        saved, why = self._seal(step, path)
        for listener in self.listeners:
            try:
                if why:
                    listener.on_seal_failed(step, why)
                listener.on_sealed(saved)
            except Exception:
                # Every listener hears of every seal: the disk watch counts them.
                log.exception("%s failed on checkpoint %d", type(listener).__name__, step)
        self.progress.beside("sealing", "")

    def _seal(self, step: int, path: Path) -> tuple[Saved | None, str]:
        """Seal one checkpoint; return it, or None and why it can't be verified ("" where the lease expired)."""
        try:
            saved = local_store.seal(path, step=step, epoch=self.epoch, may_write=self.lease.is_valid, sign=self.sign)
        except LeaseExpired:
            log.info("the lease expired before checkpoint %d was verified; nothing more is written", step)
            return None, ""
        except (OSError, ValueError) as error:
            log.info("Could not verify checkpoint %d: %s", step, error)
            return None, str(error)
        log.info("checkpoint %d verified, %.0f MB", step, saved.bytes / 1e6)
        return saved, ""
