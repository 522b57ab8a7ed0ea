"""Learn which jobs have ended anywhere, so that none of them is run again here from a record that was put back."""

from __future__ import annotations

import logging

from pi0q.queue.store import Store
from pi0q.workers.runs.job_trust import JobTrust

log = logging.getLogger(__name__)

#: Jobs that are asked for at a time, and how often at one heartbeat: a new box learns of 20,000.
PAGE, PAGES = 1000, 20


class EndedJobs:
    """Reads the queue's list of ended jobs where the last look stopped; only on a box that demands signatures."""

    def __init__(self, trust: JobTrust, store: Store) -> None:
        self.trust, self.store = trust, store
        self._read_to = 0

    def learn(self) -> None:
        """Remember what has ended since the last look. Raises the client's error."""
        if not self.trust.demanded:
            return
        for _ in range(PAGES):
            found = self.store.ended_since(self._read_to, PAGE)
            try:
                self.trust.memory.note_ended([job for job, _ in found])
            except OSError as error:
                log.warning("which jobs have ended can't be written down, so a copied record of one may run: %s", error)
                return
            if found:
                self._read_to = max(at for _, at in found)
            if len(found) < PAGE:
                return
