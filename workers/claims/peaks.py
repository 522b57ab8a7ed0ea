"""Measured VRAM of earlier jobs of a shape, as the server has it: asked once in a while, for many waiting jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from pi0q.jobs.dataset import Images
from pi0q.jobs.spec import Spec
from pi0q.jobs.vram_peak import Peak
from pi0q.queue import measured_peaks
from pi0q.queue.store_reads import StoreReads

#: Seconds for which an answer is remembered (many jobs are judged in one look, and a run that ends changes it), and how
#: many answers are.
REMEMBERED_SECONDS, MOST_REMEMBERED = 2.0, 1000


@dataclass
class RememberedPeaks:
    """Answers of the store of the last seconds. Two threads may ask at once."""

    store: StoreReads
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, tuple[float, Peak | None]] = field(default_factory=dict)

    def forget(self) -> None:
        """Ask anew at the next question: a run on this box has ended, and its peak is known."""
        self._known.clear()

    def find(self, spec: Spec, images: Images | None) -> Peak | None:
        """Return the peak that a job's VRAM is set by, as a submit finds it; None where none was measured."""
        return measured_peaks.find(self, spec, images)

    def peaks(self, keys: list[str]) -> dict[str, Peak]:
        """Return the peaks that are known, by the shape's key; those of before where the server is away."""
        now = self.clock()
        known = {key: answer for key in keys if (answer := self._known.get(key)) is not None}
        if len(known) < len(keys) or any(now - at >= REMEMBERED_SECONDS for at, _ in known.values()):
            try:
                found = self.store.peaks(keys)
            except redis.RedisError:
                found = {}
            else:
                if len(self._known) >= MOST_REMEMBERED:
                    self._known.clear()
                known = {key: (now, found.get(key)) for key in keys}
                self._known |= known
        return {key: peak for key, (_, peak) in known.items() if peak}
