"""Reporter thread: renews the lease, reports progress and log, and takes the user's requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import redis

from pi0q.jobs.record import to_hash, unreadable
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.queue.store import heard
from pi0q.queue.store_types import UserRequests
from pi0q.queue.timing import Timing
from pi0q.workers.runs.ownership import Ownership
from pi0q.workers.runs.stop import StopCause

logger = logging.getLogger(__name__)

#: Seconds between two reports while something changes, at most; a short lease shortens it.
REPORT_SECONDS = 1.0
#: Seconds that the thread leaves to the one that starts the trainer: the lease has just been renewed.
HEAD_START_SECONDS = 0.05
#: Seconds after which the thread that listens notices that it is to end.
LISTEN_SECONDS = 0.5
#: Characters of log that wait for a server that is away; the box has it all.
HELD_LOG = 32768


def readable_only(
    collect_changes: Callable[[], tuple[dict[str, Any], str]],
) -> Callable[[], tuple[dict[str, Any], str]]:
    """Return the same without fields that no record may hold: a trainer can say anything of itself."""
    refused = set[str]()

    def collect() -> tuple[dict[str, Any], str]:
        fields, text = collect_changes()
        damaged = unreadable(to_hash(fields))
        for name in damaged.keys() - refused:
            refused.add(name)
            logger.warning("left %s out of the record: it is not %s", name, damaged[name])
        return {name: value for name, value in fields.items() if name not in damaged}, text

    return collect


class Reporter(threading.Thread):
    """Calls `request_stop` with a user's request, LOST (another claim owns the job) or FENCED (no renewal in time)."""

    def __init__(
        self,
        ownership: Ownership,
        timing: Timing,
        *,
        collect_changes: Callable[[], tuple[dict[str, Any], str]],
        resend_all: Callable[[], None],
        request_stop: Callable[[StopCause], None],
        on_requests: Callable[[UserRequests], None] = lambda _: None,
    ) -> None:
        """`collect_changes` returns new fields and log, after `resend_all` all fields once more.

        `on_requests` gets the user's requests of each answer.
        """
        super().__init__(name="reporter", daemon=True)
        self.ownership, self.timing = ownership, timing
        self.collect_changes, self.resend_all = readable_only(collect_changes), resend_all
        self.request_stop, self.on_requests = request_stop, on_requests
        self._ending, self._woken, self._cut = threading.Event(), threading.Event(), threading.Event()
        # Of its own: a link that swallows everything must hold up no renewal.
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._lock = threading.RLock()
        #: What was collected and not yet reported, and bytes of the job's log before it.
        self._fields: dict[str, Any] = {}
        self._log, self._log_at = "", int(ownership.ledger.fields.get("log_bytes") or 0)
        self._resent_at = ownership.lease.clock()

    def run(self) -> None:
        self._ending.wait(HEAD_START_SECONDS)
        self._listener.start()
        while not self._ending.is_set():
            woken = self._woken.is_set()
            self._woken.clear()
            if self.due() or woken:
                self.report()
            if self.ownership.lease.fenced():
                self.request_stop(StopCause.FENCED)
            self._woken.wait(min(REPORT_SECONDS, self.timing.retry))
        self._listener.join()

    def stop(self) -> None:
        """End the thread within a second; `report` may still be called once more."""
        self._ending.set()
        self._woken.set()

    def due(self) -> bool:
        """Return whether there are changes to report, or the lease is to be renewed."""
        with self._lock:
            lease = self.ownership.lease
            if lease.clock() - self._resent_at >= self.timing.renew:
                # A server that was killed may have lost its last second, and we need not have noticed.
                self.resend_all()
                self._resent_at = lease.clock()
            self._gather()
            return bool(self._fields or self._log) or lease.clock() - lease.since >= self.timing.renew

    def _gather(self) -> None:
        fields, log = self.collect_changes()
        self._fields |= fields
        self._log += log
        self._drop(self._log[:-HELD_LOG])

    def _drop(self, log: str) -> None:
        """Forget the beginning of the held log."""
        self._log = self._log[len(log) :]
        self._log_at += len(log.encode(errors="replace"))

    def report(self) -> bool:
        """Report once; return False if the server could not be reached: then the next report carries it all."""
        requests, cause = None, None
        with self._lock:
            self._gather()
            try:
                requests = self.ownership.report(self._fields, log=self._log, log_at=self._log_at)
                cause = StopCause.requested(requests.end)
                self._fields = {}
                self._drop(self._log)
                reached = True
            except OwnershipLost:
                cause, reached = StopCause.LOST, False
            except redis.RedisError:
                self._cut.set()
                cause, reached = None, False
        if requests:
            self.on_requests(requests)
        if cause:
            # Without the lock: it may end this process, and with it whoever waits to report.
            self.request_stop(cause)
        return reached

    def note(self) -> None:
        """Write into the ledger what the next report will carry."""
        with self._lock:
            self._gather()
            self.ownership.keep(to_hash(self._fields))

    def _listen(self) -> None:
        """Wake the reporter when the user requests something of this job."""
        while not self._ending.is_set():
            self._cut.clear()
            try:
                with self.ownership.store.subscribe(f"wish:{self.ownership.ledger.job_id}") as requests:
                    while not self._ending.is_set() and not self._cut.is_set():
                        if any(heard(requests, LISTEN_SECONDS)):
                            self._woken.set()
            except redis.RedisError:
                self._ending.wait(self.timing.retry)
