"""How long a job has trained, over all its runs, and its limit (`time_limit` of its file)."""

from __future__ import annotations

import time
from collections.abc import Callable

from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.stop import StopCause

#: Seconds between two words of it to the record: so much is lost where a box dies.
TOLD_EVERY = 10.0


class TrainingTime(TrainerListener):
    """Counts the seconds that a trainer lives, from where the job's earlier runs left off."""

    def __init__(
        self,
        progress: Progress,
        *,
        before: float,
        limit: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`before`: seconds of earlier runs. `limit`: seconds in all, None for none."""
        self.progress, self.limit, self.clock = progress, limit, clock
        self.seconds = self._told = before
        self._last = clock()

    @property
    def is_over(self) -> bool:
        """Return whether the job has trained for as long as its limit allows."""
        return self.limit is not None and self.seconds >= self.limit

    def on_start(self, pid: int) -> None:
        self._last = self.clock()

    def on_tick(self) -> None:
        now = self.clock()
        self.seconds += max(0.0, now - self._last)
        self._last = now
        if self.seconds - self._told >= TOLD_EVERY:
            self._tell()

    def check(self) -> StopCause | None:
        if not self.is_over:
            return None
        self._tell()
        return StopCause.TIME_LIMIT

    def on_exit(self) -> None:
        self.on_tick()
        self._tell()

    def _tell(self) -> None:
        self._told = self.seconds
        self.progress.update(trained_seconds=round(self.seconds, 1))
