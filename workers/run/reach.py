"""Whether WandB can be reached right before a trainer starts, asked beside its preparation."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers import accounts
from pi0q.workers.preflight import WANDB
from pi0q.workers.run import fetches

#: Seconds after the question in which an answer counts; the preparation takes longer anyway.
PATIENCE_SECONDS = 10.0


class Reach:
    """One question, asked at once: an `init` of WandB without a network would hold up the training, or end it."""

    def __init__(self, spec: Spec, settings: Settings) -> None:
        self._state, self._asked = "away", time.monotonic()
        self._thread: threading.Thread | None = None
        if "wandb" in fetches.talks_to(spec):
            self._thread = threading.Thread(target=self._ask, args=(settings,), name="wandb?", daemon=True)
            self._thread.start()

    def _ask(self, settings: Settings) -> None:
        self._state = accounts.wandb(settings, os.environ, user_home=Path.home()).state

    def decide(self, spec: Spec, say: Callable[[str], None]) -> Spec:
        """The same job; with its WandB run kept on the box where WandB would not take it now."""
        if self._thread is None:
            return spec
        self._thread.join(max(0.0, self._asked + PATIENCE_SECONDS - time.monotonic()))
        if self._state == "ok":
            return spec
        say(f"WandB: {WANDB[self._state]}; its run is kept here and synced when that is mended")
        return fetches.without_wandb(spec)
