"""Report of a trainer's start: moves the job to running, at once or when the server is back."""

from __future__ import annotations

import contextlib
import logging

import redis

from pi0q.jobs import transition
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.runs.ownership import Ownership

log = logging.getLogger(__name__)


class StartReport:
    """Used by the thread that starts the trainer and by the reporter's; sent twice it changes nothing."""

    def __init__(self, ownership: Ownership, *, started_before: bool) -> None:
        """`started_before`: the record has the job's first start already."""
        self._ownership, self._started_before = ownership, started_before
        #: What the history is to say of the start; "" once the queue was told.
        self._text = ""

    def announce(self, text: str) -> None:
        """Report that the trainer lives."""
        log.info("%s", text)
        self._text = text
        self.send()

    def send(self) -> None:
        """Send the report if it is due; without a server it stays due."""
        if not self._text:
            return
        with contextlib.suppress(redis.RedisError, OwnershipLost):
            started_ms = None if self._started_before else self._ownership.store.now_ms()
            epoch = self._ownership.ledger.epoch
            self._ownership.move(transition.running(epoch, text=self._text, started_ms=started_ms))
            self._text = ""
