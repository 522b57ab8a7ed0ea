"""Start runners. One waits ready, imported and connected: starting Python would add 300 ms to each claim."""

from __future__ import annotations

import subprocess
import sys
import threading

from pi0q.workers.runs.run_request import RunRequest

MODULE = "pi0q.workers.runner.runner_main"
#: Modules on a runner's command line; the second is the old address, kept for one release: see `orphans`.
MODULES = (MODULE, "pi0q.workers.run.runner")
#: Seconds after a launch before the next runner is started: its start would take the CPU from this one's.
WARM_AFTER_SECONDS = 0.5


class CannotStart(Exception):
    """A runner ended before it took its request."""


class Launcher:
    """Hands requests to runners; each has a session of its own and outlives this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: subprocess.Popen[str] | None = None
        self._closed = False
        self._started: list[subprocess.Popen[str]] = []
        #: Held while a runner is being started: until its exec it looks like the worker.
        self.starting = threading.Lock()

    def pids(self) -> set[int]:
        """Return the runners that this process started and that have not ended."""
        self._started = [runner for runner in self._started if runner.poll() is None]
        return {runner.pid for runner in self._started}

    def _start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", MODULE]
        with self.starting:
            runner = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
            self._started.append(runner)
        return runner

    def warm(self) -> None:
        """Make sure that a runner waits."""
        with self._lock:
            if not self._closed and (self._spare is None or self._spare.poll() is not None):
                self._spare = self._start()

    def launch(self, request: RunRequest) -> subprocess.Popen[str]:
        """Hand the request to the waiting runner or to a new one, and start the next. Raises CannotStart."""
        with self._lock:
            runner, self._spare = self._spare, None
        if runner is None or not _hand(runner, request):
            runner = self._start()
            if not _hand(runner, request):
                raise CannotStart("a runner could not be started: see the worker's log")
        self._warm_soon()
        return runner

    def _warm_soon(self) -> None:
        timer = threading.Timer(WARM_AFTER_SECONDS, self.warm)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """End the waiting runner."""
        with self._lock:
            self._closed = True
            if self._spare is not None and self._spare.stdin is not None:
                self._spare.stdin.close()
                self._spare.wait()
                self._spare = None


def _hand(runner: subprocess.Popen[str], request: RunRequest) -> bool:
    assert runner.stdin is not None
    try:
        runner.stdin.write(request.to_line())
        runner.stdin.close()
    except OSError:
        runner.wait()
        return False
    return True
