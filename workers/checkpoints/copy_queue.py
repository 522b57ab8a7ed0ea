"""Queue of one for copies of checkpoints: a newer checkpoint replaces the one that waits; a failed copy backs off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from pi0q.jobs.record import Saved
from pi0q.workers.host.backoff import Backoff

#: Seconds between two checks of a condition that notifies nobody.
POLL_SECONDS = 0.5


class CopyQueue:
    """Shared by the thread that copies and the threads that offer, abort and wait. Thread-safe."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._changed = threading.Condition()
        self._waiting: Saved | None = None
        self._failures, self._not_before = 0, 0.0
        #: The checkpoint that is copied now.
        self.running: Saved | None = None
        #: Cancels the copy that runs now.
        self.abort = threading.Event()
        #: Set at the end of the run.
        self.closed = threading.Event()

    @property
    def failures(self) -> int:
        """Consecutive failed copies."""
        return self._failures

    def retry_delay(self) -> float:
        """Return the seconds until the next try, if the copy that runs now fails."""
        return self._backoff.delay(self._failures + 1)

    # -- for the thread that copies -------------------------------------------------------------------

    def take(self) -> Saved | None:
        """Wait for the next checkpoint to copy and mark it as running; None once the queue is closed."""
        with self._changed:
            while not self.closed.is_set():
                delay = self._not_before - time.monotonic()
                if self._waiting and delay <= 0:
                    self.running, self._waiting = self._waiting, None
                    self.abort.clear()
                    return self.running
                self._changed.wait(delay if self._waiting else None)
        return None

    def done(self, saved: Saved, *, retry: bool) -> None:
        """End the copy that ran; with `retry` it waits for its backoff, unless a newer checkpoint waits already."""
        with self._changed:
            self.running = None
            self._failures = self._failures + 1 if retry else 0
            self._not_before = time.monotonic() + self._backoff.delay(self._failures) if retry else 0.0
            if retry:
                self._waiting = self._waiting or saved
            self._changed.notify_all()

    # -- for all others -------------------------------------------------------------------------------

    def put(self, saved: Saved) -> bool:
        """Let a checkpoint wait in place of an older one; return False once the queue is closed."""
        with self._changed:
            if self.closed.is_set():
                return False
            self._waiting = saved
            self._changed.notify_all()
            return True

    def abort_replaced(self, spared: Collection[int]) -> Saved | None:
        """Cancel the running copy if a newer checkpoint waits, and return it; `spared` steps are left alone."""
        with self._changed:
            if not (self.running and self._waiting) or self.running.step in spared:
                return None
            self.abort.set()
            return self.running

    def await_end_of(self, saved: Saved) -> None:
        """Wait until this checkpoint is no longer being copied."""
        with self._changed:
            while self.running is saved:
                self._changed.wait(POLL_SECONDS)

    def drain(self, give_up: Callable[[], bool]) -> Saved | None:
        """Try what waits at once, then wait for the last copy to end; one failure ends the wait as well.

        Return the checkpoint whose copy was given up, if `give_up` said so; else None.
        """
        with self._changed:
            failures, self._not_before = self._failures, 0.0
            self._changed.notify_all()
            while (left := self._waiting or self.running) and self._failures <= failures:
                if give_up():
                    return left
                self._changed.wait(POLL_SECONDS)
        return None

    def close(self) -> None:
        """Cancel the running copy and let `take` return None."""
        self.closed.set()
        with self._changed:
            self.abort.set()
            self._changed.notify_all()
