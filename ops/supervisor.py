"""Supervision of one child process: start it, notice its end, start it again with backoff.

`tick` never blocks: the caller decides how it waits (a timer in `pi0q up`, signals in the box's supervisor) and what it
says of each change.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.errors import Pi0qError
from pi0q.workers.host.backoff import Backoff

#: Seconds before a child is started again.
RESTART = Backoff(first=1.0, longest=60.0)
#: Seconds of life after which earlier failures no longer count.
HEALTHY_SECONDS = 60.0

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, kw_only=True)
class Started:
    """The child runs; `again`: after an earlier failure."""

    again: bool


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The child ended, or could not be started, and is started again after `delay` seconds."""

    delay: float
    #: Its exit code; None where it could not be started.
    exit_code: int | None = None
    #: Why it could not be started.
    error: str = ""


class Supervisor:
    """Keeps one child process running."""

    def __init__(
        self,
        spawn: Callable[[], Process],
        *,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff = RESTART,
    ) -> None:
        """`spawn` starts the child; OSError and Pi0qError of it count as failures."""
        self.spawn, self.clock, self.backoff = spawn, clock, backoff
        self.process: Process | None = None
        self._started_at = 0.0
        self._due_at = float("-inf")
        self._failures = 0
        self._failed = False

    def adopt(self, process: Process) -> None:
        """Watch a child that the caller has started."""
        self.process, self._started_at = process, self.clock()

    @property
    def seconds_until_due(self) -> float | None:
        """Seconds until the next start, 0 if it is due; None while the child runs."""
        return None if self.process is not None else max(0.0, self._due_at - self.clock())

    def tick(self) -> Started | Failed | None:
        """Start the child if it is due; return what changed since the last call."""
        if self.process is None:
            return self._start() if self.clock() >= self._due_at else None
        code = self.process.poll()
        if code is None:
            return None
        self.process = None
        if self.clock() - self._started_at > HEALTHY_SECONDS:
            self._failures = 0
        return Failed(delay=self._next_delay(), exit_code=code)

    def release(self) -> Process | None:
        """Give up the child, for the caller to end; the next start is due at once and without backoff."""
        process, self.process = self.process, None
        self._due_at, self._failures = float("-inf"), 0
        return process

    def _start(self) -> Started | Failed:
        try:
            self.adopt(self.spawn())
        except (OSError, Pi0qError) as error:
            return Failed(delay=self._next_delay(), error=str(error))
        return Started(again=self._failed)

    def _next_delay(self) -> float:
        self._failures += 1
        self._failed = True
        delay = self.backoff.delay(self._failures)
        self._due_at = self.clock() + delay
        return delay


def log_tail(log: Path, lines: int = 5) -> list[str]:
    """Return the last lines of a log, for a message; none where it can't be read."""
    with suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace")[-4000:].splitlines()[-lines:]
    return []


def stop_on_signals() -> threading.Event:
    """Return an event that Ctrl-C, SIGTERM and a closed terminal set."""
    stopping = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: stopping.set())
    return stopping
