"""The thread that keeps the lease, reports progress and hears what the user wishes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from pi0q.queue.store import NotOwner, Store, heard

if TYPE_CHECKING:
    from redis.client import PubSub

#: Seconds between two reports while something changes.
REPORT_SECONDS = 1.0
#: Seconds between two renewals of the lease while nothing does.
RENEW_SECONDS = 10.0
#: Characters of log that wait for a server that is away; the box has it all.
HELD_LOG = 32768


class Reporter(threading.Thread):
    """Calls `on` once with `cancel`, `lost` (the epoch no longer counts) or `fenced` (the lease can't be renewed)."""

    def __init__(
        self,
        store: Store,
        job_id: str,
        epoch: int,
        *,
        lease_seconds: float,
        fence: float,
        collect: Callable[[], tuple[dict[str, Any], str]],
        on: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="reporter", daemon=True)
        self.store, self.job_id, self.epoch = store, job_id, epoch
        self.lease_seconds, self.fence_seconds = lease_seconds, lease_seconds * fence
        self.collect, self.on = collect, on
        self.monotonic = monotonic
        self.renewed = monotonic()
        self._over = threading.Event()
        self._listening: PubSub | None = None
        self._lock = threading.RLock()
        #: What was collected and not yet reported.
        self._held: tuple[dict[str, Any], str] = ({}, "")

    def run(self) -> None:
        while not self._over.is_set():
            if self.due():
                self.report()
            self._pause()

    def stop(self) -> None:
        """Ends the thread, within a second; `report` may still be called for a last word."""
        self._over.set()

    def due(self) -> bool:
        """Whether there is news, or the lease wants renewing."""
        with self._lock:
            return self._gather() or self.monotonic() - self.renewed >= RENEW_SECONDS

    def _gather(self) -> bool:
        fields, log = self.collect()
        self._held = ({**self._held[0], **fields}, (self._held[1] + log)[-HELD_LOG:])
        return bool(self._held[0] or self._held[1])

    def report(self) -> bool:
        """One report; False if the server could not be reached, and then nothing of it is lost."""
        with self._lock:
            self._gather()
            fields, log = self._held
            try:
                wish = self.store.report(
                    self.job_id, self.epoch, lease_seconds=self.lease_seconds, fields=fields, log=log
                )
            except NotOwner:
                self.on("lost")
                return False
            except redis.RedisError:
                if self.monotonic() - self.renewed > self.fence_seconds:
                    self.on("fenced")
                return False
            self._held = ({}, "")
            self.renewed = self.monotonic()
            if wish:
                self.on(wish)
            return True

    def _pause(self) -> None:
        """Waits a second, or less if the user wishes something of this job."""
        try:
            if self._listening is None:
                self._listening = self.store.subscribe(f"wish:{self.job_id}")
            if any(heard(self._listening, REPORT_SECONDS)) and not self._over.is_set():
                self.report()
        except redis.RedisError:
            self._listening = None
            self._over.wait(REPORT_SECONDS)
