"""One life of the trainer: a process with its supervisor and listeners, and the diagnosis of its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pi0q.jobs.failures.diagnosis import Diagnosis, with_rank, with_stacks
from pi0q.jobs.record import Saved
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runner.supervisor import Supervisor, TrainerExit
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress, SaveProgress
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.runs.trainer_log import Log
from pi0q.workers.trainer import watchdog
from pi0q.workers.trainer.event_reader import EventReader
from pi0q.workers.trainer.evidence import EvidenceCollector, TrainerOutput
from pi0q.workers.trainer.launch import TrainerCommand
from pi0q.workers.trainer.trainer_process import TrainerProcess
from pi0q.workers.trainer.watchdog import Watchdog

#: Lines of a rank's log that the job's log shows where that rank ended all.
RANK_LINES = 40


class StopAfterSave(TrainerListener):
    """Stops the trainer after its first sealed checkpoint, for the rehearsal of a resume."""

    def __init__(self, stops: StopRequests) -> None:
        self.stops = stops

    def on_sealed(self, saved: Saved | None) -> None:
        if saved:
            self.stops.stop_trainer(StopCause.REHEARSED)


@dataclass(frozen=True, kw_only=True)
class LifeEnd:
    """How one life of the trainer ended, and why."""

    exit: TrainerExit
    diagnosis: Diagnosis


@dataclass(frozen=True, kw_only=True)
class TrainerLife:
    """What one life of the trainer needs; the run itself and its rehearsal differ in it."""

    #: Its directory is where the trainer runs.
    context: RunContext
    log: Log
    lease: Lease
    progress: Progress
    watchdog: Watchdog
    #: Follow the trainer after progress and watchdog, in this order.
    listeners: Sequence[TrainerListener]

    def run(self, command: TrainerCommand, stops: StopRequests, *, started: Callable[[int], None]) -> LifeEnd | None:
        """See a trainer through from its start to its end; None where a stop was requested before it.

        `started` gets its pid.
        """
        evidence = EvidenceCollector(uuids=command.gpus, data=self.context.directory.path)
        self.log.ranks.begin(command.ranks)
        try:
            supervisor = stops.start(lambda: self._supervise(command, evidence, stops.request))
            if supervisor is None:
                return None
            started(supervisor.process.pid)
            end = supervisor.run()
            return LifeEnd(exit=end, diagnosis=self._diagnose(end, evidence, self.log.ranks.logs))
        finally:
            evidence.close()
            self.log.ranks.close()

    def _supervise(
        self, command: TrainerCommand, evidence: EvidenceCollector, request_stop: Callable[[StopCause], None]
    ) -> Supervisor:
        context = self.context
        process = TrainerProcess(command, directory=context.directory, job_id=context.job_id, epoch=context.epoch)
        save_progress = SaveProgress(self.progress, context.directory.checkpoints)
        return Supervisor(
            process,
            EventReader(self.log, context.directory, steps=self.progress.steps),
            lease=self.lease,
            listeners=[evidence, self.progress, save_progress, self.watchdog, *self.listeners],
            request_stop=request_stop,
        )

    def _diagnose(self, end: TrainerExit, evidence: EvidenceCollector, logs: Mapping[int, Log]) -> Diagnosis:
        """Return why the trainer ended; the stacks of one that hung go into a file.

        Where a rank other than 0 ended all, its last lines go into the job's log.
        """
        if end.rank:
            self._show_rank(end, logs[end.rank].recent())
        hung, train = end.cause is StopCause.HUNG, self.context.spec.train
        output = TrainerOutput(
            exit_code=end.code,
            progress=self.progress,
            log=(logs[end.rank] if end.rank else self.log).recent(),
            hung=hung,
            rank=end.rank,
            silent_seconds=self.watchdog.hung_after,
        )
        diagnosis = evidence.judge(output, train=train, lerobot=self.context.request.lerobot)
        diagnosis = with_rank(diagnosis, end.rank, len(logs) + 1)
        if not hung:
            return diagnosis
        path = watchdog.keep(end.stacks, self.context.directory.path / f"stacks-{self.context.epoch}.txt")
        return with_stacks(diagnosis, path=str(path) if path else "", where=watchdog.where(end.stacks))

    def _show_rank(self, end: TrainerExit, lines: Sequence[str]) -> None:
        self.log.say(f"rank {end.rank} ended first (exit code {end.code}), the other ranks were ended; its last lines:")
        for line in lines[-RANK_LINES:]:
            self.log.say(f"rank {end.rank}: {line}")
