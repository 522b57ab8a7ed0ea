"""Watch the runners of this box's jobs: start or find each, wait for its end, and settle what deaths left behind."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Iterable

import psutil

from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.workers.agent.context import BoxContext
from pi0q.workers.agent.launcher import CannotStart, Launcher
from pi0q.workers.agent.recovery import Recovery
from pi0q.workers.host.backoff import Backoff
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.run_request import RunRequest
from pi0q.workers.trainer.interpreter import NoTrainer

logger = logging.getLogger(__name__)

#: Seconds between two checks whether the worker is to stop while a run goes on.
STOP_CHECK_SECONDS = 1.0
#: Seconds of the longest pause of claims after runners that did not start.
LONGEST_PAUSE = 60.0

Runner = subprocess.Popen[str] | psutil.Process


class Stopping(Exception):
    """The worker stops; the run goes on under its runner."""


class StartFailures:
    """Consecutive runner start failures, and when claiming resumes."""

    def __init__(self, first_pause: float) -> None:
        self._backoff = Backoff(first=first_pause, longest=LONGEST_PAUSE)
        self._failed_starts = 0
        self._resume_at = 0.0

    @property
    def pausing(self) -> bool:
        """Whether the box claims nothing for now."""
        return time.monotonic() < self._resume_at

    def succeeded(self) -> None:
        """Forget earlier failures: a runner started its job."""
        self._failed_starts = 0

    def failed(self) -> float:
        """Count a failure; return the seconds for which claims pause."""
        self._failed_starts += 1
        pause = self._backoff.delay(self._failed_starts)
        self._resume_at = time.monotonic() + pause
        return pause


class RunWatcher:
    """The runs of one box, each watched by a thread of the worker."""

    def __init__(self, context: BoxContext, launcher: Launcher, recovery: Recovery) -> None:
        self.context, self.launcher, self.recovery = context, launcher, recovery
        self.start_failures = StartFailures(context.settings.timing.retry)
        #: Claims that a thread of this worker watches, each a job and its claim number.
        self.attended: set[tuple[str, int]] = set()
        self._attending = threading.Lock()
        #: Runners that were started and are not attended yet, by claim.
        self._started: dict[tuple[str, int], subprocess.Popen[str]] = {}
        self._starting = threading.Lock()

    def attend(self, job_id: str) -> Record | None:
        """Start the job's runner, or find the one that lives, and wait for its end.

        Returns the record as it is then; None if the job is not this box's, is attended already, or its record is gone
        or cannot be read.
        Raises Stopping when the worker is to stop.
        """
        try:
            record = self.context.store.get(job_id)
        except (NotFound, BadRecord):
            # A server with older data does not know the job, or its record is damaged: then its lease runs out.
            return None
        # A job that ended may be claimed anew before the thread that saw it end is through.
        claim = (job_id, record.epoch)
        with self._attending:
            # A run that was started with its claim may be over when its message comes.
            ours = record.box == self.context.name and (record.state in OWNED or claim in self._started)
            if claim in self.attended or not ours:
                return None
            self.attended.add(claim)
        try:
            detail = self._watch(record)
            self._note_start(*claim)
            return self.recovery.settle_run(job_id, record.epoch, Reason.RUNNER_LOST, detail)
        except (NotFound, BadRecord):
            return None
        finally:
            self.attended.discard(claim)
            self._started.pop(claim, None)

    def start(self, job_id: str, epoch: int) -> None:
        """Start the runner of a job that this box has just claimed: its message need not come around for that.

        One that can't be started is left to `attend`, which tells why.
        """
        with contextlib.suppress(CannotStart):
            self._start(job_id, epoch)

    def _start(self, job_id: str, epoch: int) -> Runner | None:
        """Start the runner of a claim, once; None where there is no LeRobot. Raises CannotStart."""
        trainer, identity = self.context.trainer, self.context.identity
        with self._starting:
            if started := self._started.get((job_id, epoch)):
                return started
            if isinstance(trainer, NoTrainer):
                return None
            request = RunRequest(
                job_id=job_id,
                epoch=epoch,
                python=trainer.python,
                lerobot=trainer.lerobot,
                box=identity.name,
                boot=identity.boot,
            )
            runner = self._started[job_id, epoch] = self.launcher.launch(request)
            return runner

    def _watch(self, record: Record) -> str:
        """Wait until no runner of the job lives; return how that came, should the runner have left no end."""
        try:
            self._wait(self._runner(record))
        except CannotStart as error:
            return str(error)
        # After a crash two may have been started: the end of the one that came too late says nothing of the other.
        self._wait(self._live_runner(record))
        return "its runner died"

    def _note_start(self, job_id: str, epoch: int) -> None:
        """Count a runner that ended before it started its job: a fault of this box, not of the job."""
        record = self.context.store.get(job_id)
        if (record.state, record.epoch) != (State.CLAIMED, epoch):
            self.start_failures.succeeded()
            return
        pause = self.start_failures.failed()
        logger.error("the runner of %s exited before it started the job; claims paused for %.0f s", job_id, pause)

    def _live_runner(self, record: Record) -> psutil.Process | None:
        if pid := RunDirectory(self.context.settings.runs / record.id).live_runner(record.epoch):
            logger.info("re-attached to the live runner %d of %s", pid, record.id)
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(pid)
        return None

    def _runner(self, record: Record) -> Runner | None:
        """Return the live runner of the job, or start one where none began; raises CannotStart."""
        if started := self._started.get((record.id, record.epoch)):
            return started
        if live := self._live_runner(record):
            return live
        return self._start(record.id, record.epoch) if record.state is State.CLAIMED else None

    def _wait(self, runner: Runner | None) -> None:
        while runner is not None:
            try:
                runner.wait(STOP_CHECK_SECONDS)
                return
            except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
                if self.context.stopping.is_set():
                    raise Stopping from None

    def reconcile(self, *, at_start: bool) -> list[str]:
        """Settle the jobs of this box that no thread watches; return those that are in the queue again."""
        return self.recovery.reconcile(self.attended, at_start=at_start)

    def hand_back(self, owned: Iterable[Record]) -> None:
        """Ask the runners of these jobs to save, stop and requeue them; asking twice changes nothing."""
        name = self.context.name
        for record in owned:
            with contextlib.suppress(NotFound):
                self.context.store.request_handback(
                    record.id, text=f"{name} is drained: the job saves and goes back into the queue"
                )
