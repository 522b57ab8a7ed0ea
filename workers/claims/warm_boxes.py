"""Leave a job for a few seconds to another free box that need not download what it reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pi0q.jobs.amounts import gib
from pi0q.jobs.record import Record
from pi0q.queue import affinity, capacity
from pi0q.queue.affinity import MOST_NAMES, WAIT_SECONDS, WarmBox
from pi0q.queue.refusals import CheckpointElsewhere
from pi0q.queue.store import Store
from pi0q.workers.hub import cached

#: Jobs that are remembered as left to another box.
REMEMBERED = 1000


def complete(hf_home: Path) -> str:
    """Return the repositories that are complete in the cache, as a box announces them."""
    marks = (hf_home / "hub").glob("*--*--*/.pi0q-whole-*")
    found = {name for mark in marks if (name := cached.name_of(mark.parent))}
    return json.dumps(sorted(found)[:MOST_NAMES])


class WarmBoxes:
    """What this box leaves to others."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self._clock = store, clock
        #: When each job was first left to another box.
        self._since: dict[str, float] = {}

    def refusal(self, job: Record, reads: Mapping[str, int], mine: WarmBox) -> CheckpointElsewhere | None:
        """Return why the job is left to another box for now, which is woken; None if this box is to take it.

        `reads`: MiB of each repository that the job reads, by name.
        """
        since = self._since.get(job.id, self._clock())
        left = since + WAIT_SECONDS - self._clock()
        if left <= 0 or mine.missing_mib(reads) < affinity.WORTH_MIB:
            return None
        need = capacity.needed(job)
        found = affinity.better(reads, mine, self.store.free_boxes(need.gpus, need.vram_mib))
        if found is None:
            return None
        if job.id not in self._since:
            if len(self._since) >= REMEMBERED:
                self._since.clear()
            self._since[job.id] = since
            self.store.wake(found.box, job.id)
        what = f"{gib(found.saved_mib)} of what it reads"
        return CheckpointElsewhere(box=found.box, seconds=max(1, round(left)), what=what)
