"""Keep the checkpoint with the best loss on held-out episodes (`checkpoints.best`) until a better one is verified."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from pi0q.jobs import best_checkpoint
from pi0q.jobs.best_checkpoint import Best
from pi0q.jobs.record import Saved
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress


class BestCheckpoint(TrainerListener):
    """Reports each evaluation, and pins the best checkpoint once it is verified.

    As a listener of seals it comes before the Retention. The trainer's own count rules: it lies in the checkpoint that
    the trainer goes on from.
    """

    def __init__(self, progress: Progress, pins: Pins, *, wanted: bool) -> None:
        """`wanted`: whether the job keeps its best checkpoint; else evaluations are reported alone."""
        self.progress, self.pins, self.wanted = progress, pins, wanted
        self._lock = threading.Lock()
        #: The best evaluation, and the checkpoint that is kept for it.
        self.told: Best | None = None
        self.kept: Best | None = None

    def on_event(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind not in ("ready", "evaluated", "early_stop"):
            return
        with self._lock:
            self.told = best_checkpoint.of_event(event)
            if kind == "evaluated" and isinstance(loss := event.get("eval_loss"), (int, float)):
                self.progress.update(eval_loss=float(loss))
            if kind == "ready":
                # What the checkpoint says was saved before it, or with it.
                self._keep(self.told)
            elif self.kept and self.told and self.kept.step == self.told.step:
                self._keep(self.told)

    def on_sealed(self, saved: Saved | None) -> None:
        with self._lock:
            if saved and self.told and saved.step == self.told.step:
                self._keep(self.told)

    def _keep(self, best: Best | None) -> None:
        if not self.wanted:
            return
        self.kept = best
        self.pins.keep_best(best.step if best else None)
        self.progress.update(best=best)
