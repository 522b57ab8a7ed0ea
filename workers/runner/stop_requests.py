"""Stop requests of one run: the heaviest cause counts, and the running trainer gets it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pi0q.workers.runner.supervisor import Supervisor
from pi0q.workers.runs.stop import StopCause


class StopRequests:
    """Takes requests from any thread: of the user, of the box, and of the run itself."""

    def __init__(self) -> None:
        #: The heaviest cause so far.
        self.cause: StopCause | None = None
        #: The trainer that was started last.
        self.trainer: Supervisor | None = None
        #: Set by SIGTERM: the run must not wait any longer for a server that is away.
        self.terminated = threading.Event()
        self._lock = threading.Lock()
        self._leave: Callable[[StopCause], None] | None = None

    def request(self, cause: StopCause) -> None:
        """Stop the run for this cause, unless one that weighs as much came before."""
        with self._lock:
            if cause.weight <= (self.cause.weight if self.cause else 0):
                return
            self.cause, trainer, leave = cause, self.trainer, self._leave
        if trainer is not None:
            trainer.stop(cause)
        elif leave is not None:
            leave(cause)

    def on_sigterm(self) -> None:
        """Handle SIGTERM: save and hand the job back; if the server is unreachable the ledger keeps the result."""
        self.terminated.set()
        self.request(StopCause.HANDBACK)

    def leave_by(self, leave: Callable[[StopCause], None]) -> None:
        """Call `leave` for a request before the first trainer starts; at once where there was one already."""
        with self._lock:
            self._leave, cause = leave, self.cause
        if cause is not None:
            leave(cause)

    def start(self, spawn: Callable[[], Supervisor]) -> Supervisor | None:
        """Start a trainer, which gets the requests from now on; None where a stop was requested before."""
        with self._lock:
            if self.cause is not None:
                return None
            self.trainer = spawn()
            return self.trainer

    def stop_trainer(self, cause: StopCause) -> None:
        """Stop the trainer alone; the run itself goes on."""
        with self._lock:
            trainer = self.trainer
        if trainer is not None:
            trainer.stop(cause)
