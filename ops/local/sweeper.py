"""Thread of `pi0q up` that repairs the queue while no box is up and prunes old ended jobs."""

from __future__ import annotations

import threading
import time

import redis

from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store

#: Seconds between two looks for ended jobs that are kept no longer.
PRUNE_SECONDS = 3600.0
#: Seconds between two calls of further boxes for jobs that no box has taken.
CALL_SECONDS = 1.0


class Sweeper(threading.Thread):
    """Sweep as boxes do; the server makes all sweepers together sweep no more often than one."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        super().__init__(name="sweeper", daemon=True)
        self.store = Store(connect(settings), settings.prefix)
        self.every = settings.timing.sweep
        self.retention = settings.keep_ended
        self.stopping = stopping

    def run(self) -> None:
        """Sweep until `stopping`; `pi0q up` itself reports a server that is unreachable."""
        prune_at, sweep_at = time.monotonic(), time.monotonic() + self.every
        while not self.stopping.wait(min(self.every, CALL_SECONDS)):
            try:
                self.store.call_again()
                if time.monotonic() >= sweep_at:
                    self.store.sweep(every_seconds=self.every)
                    sweep_at = time.monotonic() + self.every
                if time.monotonic() >= prune_at:
                    self.store.prune(self.retention)
                    prune_at = time.monotonic() + PRUNE_SECONDS
            except redis.RedisError:
                continue
