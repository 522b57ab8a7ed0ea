"""Supervisor of one trainer process: hands its events to listeners, stops it for a cause, kills it at its deadline."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pi0q.workers.host import process_tree
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.trainer.event_reader import Event, EventReader
from pi0q.workers.trainer.trainer_process import Received, TrainerProcess

#: Seconds that a trainer may take to save when it is told to stop: 22 GB took 29 s on a local SSD.
SAVE_SECONDS = 300.0
#: Between two looks at the deadlines, at most.
LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainerExit:
    """How one trainer process ended."""

    #: Its exit code, negative for a signal; of several ranks that of the one whose end ended all.
    code: int
    #: The number of that one.
    rank: int = 0
    #: Processes of the run that SIGKILL did not end.
    undead: Sequence[int]
    #: Whether it sent its events itself.
    hooked: bool
    #: Why it was told to stop; None if it was not.
    cause: StopCause | None
    #: What it printed after its stacks were asked for; empty unless it hung.
    stacks: Sequence[str]


class Supervisor:
    """Sees one trainer process through to its end. Any thread may call `stop`."""

    def __init__(
        self,
        process: TrainerProcess,
        reader: EventReader,
        *,
        lease: Lease,
        listeners: Sequence[TrainerListener],
        request_stop: Callable[[StopCause], None],
    ) -> None:
        """`request_stop` gets the causes that are seen here; it calls `stop` unless a heavier one came before."""
        self.process, self.reader, self.lease = process, reader, lease
        self.listeners, self.request_stop = listeners, request_stop
        #: The latest cause.
        self._cause: StopCause | None = None
        self._cause_lock = threading.Lock()
        #: By the lease's clock: when a trainer that was told to stop is killed.
        self._deadline: float | None = None
        self._killed = False
        #: Lines of the log before the stacks of a hung trainer.
        self._lines_before_stacks = 0

    def stop(self, cause: StopCause) -> None:
        """Stop the trainer as the cause says: at once or after a save."""
        with self._cause_lock:
            if cause is StopCause.REHEARSED and self._cause:
                return
            self._cause = cause
        self.process.wake()

    def run(self) -> TrainerExit:
        """See the trainer through to its end."""
        for listener in self.listeners:
            listener.on_start(self.process.pid)
        while not self.process.undead:
            received = self.process.wait(self._pause())
            self._handle(received)
            if received.woken:
                self._apply_stop()
            if received.exited:
                break
            self._check_deadlines()
        return self._finish()

    def _handle(self, received: Received) -> None:
        if received.output:
            self._tell(self.reader.from_output(received.output))
        for rank, output in received.of_ranks.items():
            self.reader.from_rank(rank, output)
        if received.events:
            self._tell(self.reader.from_pipe(received.events))

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            for listener in self.listeners:
                listener.on_event(event)

    # -- stopping -------------------------------------------------------------------------------------

    def _apply_stop(self) -> None:
        """Do what the latest cause asks for."""
        cause = self._cause
        if self._killed or cause is None:
            return
        if cause.kill_now:
            # Not a word into the log: it may be its next owner's.
            self._kill()
        elif cause.save_first:
            self._terminate(SAVE_SECONDS)
        elif cause is StopCause.HUNG:
            # In this order: the stacks are printed before anything else runs in it.
            self._lines_before_stacks = self.reader.trainer_log.said
            self.process.request_stacks()
            self._terminate(process_tree.POLITE_SECONDS)
        else:
            self.process.interrupt()

    def _terminate(self, seconds: float) -> None:
        self.process.send(signal.SIGTERM)
        self._deadline = self.lease.clock() + seconds

    def _kill(self, why: str = "") -> None:
        if why:
            log.info("%s: the trainer is killed", why)
        self._killed = True
        self.process.kill()

    def _pause(self) -> float:
        """Return the seconds to the next time that matters, a second at most."""
        if self._killed:
            return LOOK_SECONDS
        until = self.lease.fence_at if self._deadline is None else self._bound(self._deadline)
        return min(LOOK_SECONDS, max(0.0, until - self.lease.clock()))

    def _bound(self, deadline: float) -> float:
        return min(deadline, self.lease.last_call)

    def _check_deadlines(self) -> None:
        now = self.lease.clock()
        for listener in self.listeners:
            listener.on_tick()
        if self._killed:
            return
        if not self.lease.is_valid():
            self.request_stop(StopCause.FENCED)
            self._kill("its lease is over")
        elif self._deadline is not None:
            if now >= self._bound(self._deadline):
                self._kill("it did not stop in time")
        elif self.lease.fenced():
            self.request_stop(StopCause.FENCED)
        elif cause := next(filter(None, (listener.check() for listener in self.listeners)), None):
            self.request_stop(cause)

    # -- the end --------------------------------------------------------------------------------------

    def _finish(self) -> TrainerExit:
        end = self.process.reap()
        for received in self.process.drain():
            self._handle(received)
        self._tell(self.reader.finish())
        for listener in self.listeners:
            listener.on_exit()
        self.process.close()
        self.reader.close()
        hung = self._cause is StopCause.HUNG
        return TrainerExit(
            code=end.code,
            rank=end.rank,
            undead=self.process.undead,
            hooked=self.reader.hooked,
            cause=self._cause,
            stacks=self.reader.trainer_log.recent(self._lines_before_stacks) if hung else (),
        )
