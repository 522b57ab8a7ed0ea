"""Training of a run: one life of the trainer, or two where the job rehearses its resume."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import NoReturn

from pi0q.jobs import best_checkpoint
from pi0q.jobs.failures.diagnosis import Diagnosis
from pi0q.jobs.outcome import COMPLETE, Reason
from pi0q.jobs.record import Saved
from pi0q.queue.job_text import span
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints.best import BestCheckpoint
from pi0q.workers.checkpoints.restore import Restored
from pi0q.workers.checkpoints.retention import Retention
from pi0q.workers.checkpoints.sealer import Sealer
from pi0q.workers.runner import measured_vram, messages, tensorboard
from pi0q.workers.runner.prepare import Prepared, find_checkpoint
from pi0q.workers.runner.receipts import Receipts
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runner.training import StopAfterSave, TrainerLife
from pi0q.workers.runs.disk_usage import CheckpointReport
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.stop import Stop, StopCause
from pi0q.workers.runs.training_time import TrainingTime
from pi0q.workers.runs.vram_watch import VramWatch
from pi0q.workers.storage.disk_pressure import DiskPressure, RunCleaner
from pi0q.workers.trainer import launch
from pi0q.workers.trainer.watchdog import Watchdog

log = logging.getLogger(__name__)


def train(session: RunSession, prepared: Prepared) -> str:
    """Run the trainer to its end; return the sentence of a success. Raises Stop, LeaseExpired and OwnershipLost.

    A job that rehearses its resume is stopped after its first sealed checkpoint and goes on from that.
    """
    start = prepared.start
    time_used = TrainingTime(
        session.progress, before=session.context.record.trained_seconds, limit=session.context.spec.time_limit
    )
    if time_used.is_over:
        raise_for(session, StopCause.TIME_LIMIT, None)
    rehearse_resume = prepared.context.spec.rehearsal and start.checkpoint is None
    while True:
        stop_after_save = rehearse_resume and start.checkpoint is None
        found = session.disk.blame(_run_trainer(session, prepared, start, time_used, stop_after_save=stop_after_save))
        _check_stop(session, found)
        if found.reason is Reason.STOPPED_BY_BOX and stop_after_save:
            log.info("rehearsal: saved and stopped as planned; now the resume")
            start = find_checkpoint(session)
            continue
        if found.reason is Reason.NO_CUDA and (why := messages.simulated(session.context.record.gpus)):
            raise Stop.of(replace(found, detail=f"{found.detail}: {why}", fix=messages.SIMULATED_FIX))
        if found.reason is Reason.EARLY_STOP:
            fields = session.progress.fields
            raise Stop(found.reason, best_checkpoint.early_stop(fields.get("best"), fields.get("step")))
        if found.reason is not Reason.FINISHED:
            raise Stop.of(found)
        reached = f"reached step {session.progress.fields.get('step')}"
        unproven = " before its first save was sealed: the resume is not proven"
        return reached + unproven if stop_after_save else reached


def raise_for(session: RunSession, cause: StopCause, found: Diagnosis | None) -> NoReturn:
    """End the run for this cause; `found` is how its trainer ended, None before there is one."""
    if cause is StopCause.LOST:
        raise OwnershipLost
    if cause is StopCause.HUNG and found:
        raise Stop.of(found)
    what = session.disk.describe(cause) if cause is not StopCause.TIME_LIMIT else _limit_reached(session)
    raise Stop(cause.reason, messages.stopped(cause, found.exit_code if found else None, what=what))


def _limit_reached(session: RunSession) -> str:
    trained = session.progress.fields.get("trained_seconds", session.context.record.trained_seconds)
    return f"it trained for {span(trained)}, its time_limit is {span(session.context.spec.time_limit or 0)}"


def raise_if_stopped(session: RunSession) -> None:
    """End the run where a stop was requested before its trainer began."""
    if cause := session.stops.cause:
        raise_for(session, cause, None)


def _check_stop(session: RunSession, found: Diagnosis) -> None:
    """End the run if its trainer was asked to stop and did not reach its last step before that."""
    if found.reason is Reason.STOPPED_BY_BOX and session.lease.fenced():
        # It stopped by itself, before anyone here looked at the clock.
        session.stops.request(StopCause.FENCED)
    cause = session.stops.cause
    if cause and (found.reason not in COMPLETE or cause is StopCause.LOST):
        raise_for(session, cause, found)


def _run_trainer(
    session: RunSession, prepared: Prepared, start: Restored, time_used: TrainingTime, *, stop_after_save: bool
) -> Diagnosis:
    """See one life of the trainer through; return why it ended."""
    session.lease.require_valid()
    context, resume = prepared.context, start.checkpoint
    listeners = _listeners(session, prepared, resume, stop_after_save=stop_after_save)
    if not resume:
        context.directory.set_output_aside()
    command = launch.trainer(context, resume, prepared.cache_env)
    session.progress.update(phase="starting the trainer")
    compiles = bool(context.spec.train.get("policy.compile_model")) and not context.spec.rehearsal
    life = TrainerLife(
        context=context,
        log=session.log,
        lease=session.lease,
        progress=session.progress,
        watchdog=Watchdog(context.settings.hang_seconds, compiles=compiles, now=time.monotonic()),
        listeners=listeners,
    )
    how = messages.beginning(context.record, resume, box=context.box, back=start.place)
    vram = VramWatch()
    listeners += [vram, time_used]
    end = life.run(
        command,
        session.stops,
        started=lambda pid: session.start_report.announce(f"trainer {pid}, LeRobot {context.request.lerobot}, {how}"),
    )
    if end is None:
        raise_if_stopped(session)
    assert end is not None, "only a stop request keeps a trainer from its start"
    measured_vram.keep(session, vram, end.diagnosis.reason)
    return end.diagnosis


def _retention(session: RunSession, prepared: Prepared) -> Retention:
    context = prepared.context
    return Retention(
        context.directory.checkpoints,
        keep=context.spec.checkpoints.keep,
        lease=session.lease,
        pins=session.replicator.pins,
        replicator=session.replicator,
        progress=session.progress,
    )


def _listeners(
    session: RunSession, prepared: Prepared, resume: Saved | None, *, stop_after_save: bool
) -> list[TrainerListener]:
    """Return what follows a trainer besides progress and watchdog."""
    context, kernels = prepared.context, [prepared.kernels] if prepared.kernels else []
    replicator, requests, size = session.replicator, session.checkpoint_requests, session.disk.size
    best = BestCheckpoint(session.progress, replicator.pins, wanted=bool(context.spec.checkpoints.best))
    retention = _retention(session, prepared)
    pressure = DiskPressure(
        context.settings.home,
        size,
        RunCleaner(session.context, session.lease, keep_newest_only=retention.keep_newest_only),
        run_in_turn=lambda act: sealer.run_in_turn(act),
        note=session.ownership.note,
    )
    session.disk.trainer_starts(pressure, resume)
    # In this order: a checkpoint is offered for a copy before older ones are removed, and the disk is measured then.
    follow_seals: list[TrainerListener] = [
        best,
        replicator,
        retention,
        CheckpointReport(session.progress, session.usage),
        Receipts(context, session.progress),
        *kernels,
    ]
    follow_seals += [StopAfterSave(session.stops)] if stop_after_save else []
    sealer = Sealer(
        context.epoch,
        session.lease,
        session.progress,
        [*follow_seals, requests, size, pressure],
        sign=context.sign_manifest,
    )
    return [best, requests, size, pressure, sealer, *kernels, *tensorboard.listener(context)]
