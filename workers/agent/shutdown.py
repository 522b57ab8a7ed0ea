"""Shut a worker down: on a signal, or for a reason of its own. Trainings go on either way."""

from __future__ import annotations

import os
import signal
import threading

from celery.platforms import EX_FAILURE
from celery.worker import state

from pi0q.workers.agent.box import Box

#: Signals that stop a worker. SIGQUIT is Celery's cold shutdown; here no stop touches the runs.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Shutdown:
    """Why this worker ends, and whether it starts again."""

    def __init__(self, box: Box) -> None:
        self.box = box
        #: A signal asked for it.
        self.requested = threading.Event()
        #: Celery's exit code: EX_FAILURE after an unrecoverable error.
        self.code: int | str | None = None
        self._why = ""
        self._signals = 0
        self._printed = False
        self._nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def listen(self) -> None:
        """Take the signals over from Celery, whose second Ctrl-C ends tasks (and says that it ends trainings)."""
        for sig in SIGNALS:
            signal.signal(sig, self._on_signal)
        if self._nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, *_: object) -> None:
        # The next signal may interrupt this very handler; then only the interrupted one prints.
        self._signals += 1
        if self._signals == 1:
            self.requested.set()
            self.box.context.stopping.set()
            state.should_stop = 0
            self._print()
        if self._signals > 1 and self._printed:
            # Exit at once: what is left open is what a kill -9 leaves, and recovery handles that.
            os._exit(0)

    def _print(self) -> None:
        runs = len(self.box.runs.attended)
        meanwhile = ""
        if runs == 1:
            meanwhile = " The training goes on; the next worker here re-attaches to it."
        elif runs:
            meanwhile = f" {runs} trainings go on; the next worker here re-attaches to them."
        # os.write is reentrant; print() is not (buffered I/O raises when a second signal interrupts it).
        os.write(2, f"pi0q: Stopping.{meanwhile}\n".encode())
        self._printed = True

    def give_up(self, why: str) -> None:
        """End the worker for a reason after which it restarts."""
        self._why = why
        self.box.context.stopping.set()
        state.should_stop = 0

    def why(self) -> str:
        """Return why the worker restarts; "" where it is to end."""
        if self.requested.is_set():
            return ""
        if self._why:
            return self._why
        return "Celery met an unrecoverable error (see above)." if self.code == EX_FAILURE else ""
