"""The thread that keeps the lease, reports progress and hears what the user wishes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import redis

from pi0q.jobs.record import to_hash
from pi0q.queue.store import NotOwner, heard
from pi0q.queue.timing import Timing
from pi0q.queue.wishes import Wishes
from pi0q.workers.run.owner import Owner

#: Seconds between two reports while something changes, at most; a short lease shortens it.
REPORT_SECONDS = 1.0
#: Between two looks of the thread that listens at whether it is to end.
LISTEN_SECONDS = 0.5
#: Characters of log that wait for a server that is away; the box has it all.
HELD_LOG = 32768


class Reporter(threading.Thread):
    """Calls `on` with a user's wish, `lost` (the job is another's) or `fenced` (the lease could not be renewed)."""

    def __init__(
        self,
        owner: Owner,
        timing: Timing,
        *,
        collect: Callable[[], tuple[dict[str, Any], str]],
        again: Callable[[], None],
        on: Callable[[str], None],
        hear: Callable[[Wishes], None] = lambda _: None,
    ) -> None:
        """`collect` gives new fields and log; after `again` all fields once more. `hear`: all that a user wishes."""
        super().__init__(name="reporter", daemon=True)
        self.owner, self.timing = owner, timing
        self.collect, self.again, self.on, self.hear = collect, again, on, hear
        self._over, self._woken, self._cut = threading.Event(), threading.Event(), threading.Event()
        # Of its own: a link that swallows everything must hold up no renewal.
        self._ear = threading.Thread(target=self._listen, name="ear", daemon=True)
        self._lock = threading.RLock()
        #: What was collected and not yet reported, and bytes of the job's log before it.
        self._fields: dict[str, Any] = {}
        self._log, self._log_at = "", int(owner.ledger.fields.get("log_bytes") or 0)
        self._told_all = owner.lease.clock()

    def run(self) -> None:
        self._ear.start()
        while not self._over.is_set():
            wished = self._woken.is_set()
            self._woken.clear()
            if self.due() or wished:
                self.report()
            if self.owner.lease.fenced():
                self.on("fenced")
            self._woken.wait(min(REPORT_SECONDS, self.timing.retry))
        self._ear.join()

    def stop(self) -> None:
        """Ends the thread, within a second; `report` may still be called for a last word."""
        self._over.set()
        self._woken.set()

    def due(self) -> bool:
        """Whether there is news, or the lease wants renewing."""
        with self._lock:
            lease = self.owner.lease
            if lease.clock() - self._told_all >= self.timing.renew:
                # A server that was killed may have lost its last second, and we need not have noticed.
                self.again()
                self._told_all = lease.clock()
            self._gather()
            return bool(self._fields or self._log) or lease.clock() - lease.since >= self.timing.renew

    def _gather(self) -> None:
        fields, log = self.collect()
        self._fields |= fields
        self._log += log
        self._drop(self._log[:-HELD_LOG])

    def _drop(self, log: str) -> None:
        """Forgets the beginning of the log that is held."""
        self._log = self._log[len(log) :]
        self._log_at += len(log.encode(errors="replace"))

    def report(self) -> bool:
        """One report; False if the server could not be reached, and then nothing of it is lost."""
        wishes = None
        with self._lock:
            self._gather()
            try:
                wishes = self.owner.report(self._fields, log=self._log, log_at=self._log_at)
                heard = wishes.end
                self._fields = {}
                self._drop(self._log)
                told = True
            except NotOwner:
                heard, told = "lost", False
            except redis.RedisError:
                self._cut.set()
                heard, told = "", False
        if wishes:
            self.hear(wishes)
        if heard:
            # Without the lock: it may end this process, and with it whoever waits to report.
            self.on(heard)
        return told

    def note(self) -> None:
        """Keeps in the ledger what the next report will tell."""
        with self._lock:
            self._gather()
            self.owner.keep(to_hash(self._fields))

    def _listen(self) -> None:
        """Wakes the reporter when the user wishes something of this job."""
        while not self._over.is_set():
            self._cut.clear()
            try:
                with self.owner.store.subscribe(f"wish:{self.owner.ledger.job_id}") as wishes:
                    while not self._over.is_set() and not self._cut.is_set():
                        if any(heard(wishes, LISTEN_SECONDS)):
                            self._woken.set()
            except redis.RedisError:
                self._over.wait(self.timing.retry)
