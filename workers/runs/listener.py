"""The interface of everything that follows a trainer's life: one listener a subject, called in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pi0q.jobs.record import Saved
from pi0q.workers.runs.stop import StopCause


class TrainerListener:
    """Base class with no-op methods; the supervisor calls each method of each listener from its own thread."""

    def on_start(self, pid: int) -> None:
        """Handle the start of a trainer's process, before its first event."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Handle one event of the trainer (`start`, `ready`, `step`, `saving`, `saved`, `error`, ...)."""

    def on_tick(self) -> None:
        """Look at what changes without an event; called about once a second while the trainer lives."""

    def check(self) -> StopCause | None:
        """Return why the trainer has to stop, or None; called after `on_tick`, unless it was asked to stop already."""

    def on_seal_failed(self, step: int, why: str) -> None:
        """Handle a checkpoint that could not be verified; `on_sealed(None)` follows.

        The sealer's thread calls this method.
        """

    def on_sealed(self, saved: Saved | None) -> None:
        """Handle the end of one seal: the verified checkpoint, or None where it could not be verified.

        The sealer's thread calls this method.
        """

    def on_exit(self) -> None:
        """Finish what this trainer's life began; called once its process is gone and its last event is handled."""
