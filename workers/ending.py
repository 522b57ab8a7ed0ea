"""How a worker ends: told to, or by itself. Trainings go on either way."""

from __future__ import annotations

import os
import signal
import threading

from celery.platforms import EX_FAILURE
from celery.worker import state

from pi0q.workers.box import Box

#: What stops a worker. SIGQUIT is Celery's for a cold stop; here each stop is one that leaves the runs alone.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Ending:
    """Why this worker ends, and what follows."""

    def __init__(self, box: Box) -> None:
        self.box = box
        #: A signal said so.
        self.told = threading.Event()
        #: Celery's own word: EX_FAILURE after an error that it can't get over.
        self.code: int | str | None = None
        self._why = ""
        self._signals = 0
        self._said = False
        self._nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def listen(self) -> None:
        """Takes the signals from Celery, whose second Ctrl-C ends tasks (and says that it ends trainings)."""
        for sig in SIGNALS:
            signal.signal(sig, self._on_signal)
        if self._nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, *_: object) -> None:
        # The next signal may interrupt this very handler: it leaves the word and the end to the one it interrupted.
        self._signals += 1
        if self._signals == 1:
            self.told.set()
            self.box.stopping.set()
            state.should_stop = 0
            self._say()
        if self._signals > 1 and self._said:
            # Someone is in a hurry; whatever is left open is what a kill -9 leaves, and that is no harm.
            os._exit(0)

    def _say(self) -> None:
        runs = len(self.box.attended)
        those = f"{runs} trainings go on; the next worker here finds them again."
        meanwhile = those if runs > 1 else "The training goes on; the next worker here finds it again."
        # Of all ways to print only this one may interrupt another.
        os.write(2, f"pi0q: Stopping.{' ' + meanwhile if runs else ''}\n".encode())
        self._said = True

    def give_up(self, why: str) -> None:
        """Ends the worker for a reason that it is to begin anew with."""
        self._why = why
        self.box.stopping.set()
        state.should_stop = 0

    def why(self) -> str:
        """Why it is to begin anew; empty where it is to end."""
        if self.told.is_set():
            return ""
        if self._why:
            return self._why
        return "Celery met an error that it can't get over (it is told above)." if self.code == EX_FAILURE else ""
