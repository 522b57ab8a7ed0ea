"""Who mends the queue while no box is up: jobs of dead leases go back into it, lost messages come back."""

from __future__ import annotations

import threading

import redis

from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store


class Sweeper(threading.Thread):
    """Sweeps as boxes do; the server sees to it that all of them together do so no more often than one."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        super().__init__(name="sweeper", daemon=True)
        self.store = Store(connect(settings), settings.prefix)
        self.every = settings.timing.sweep
        self.stopping = stopping

    def run(self) -> None:
        """Until `stopping`. A server that is away is none of its business: `Child.look` tells of that."""
        while not self.stopping.wait(self.every):
            try:
                self.store.sweep(every_seconds=self.every)
            except redis.RedisError:
                continue
