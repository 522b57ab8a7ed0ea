"""The rehearsal before a long run: the same job with its model shrunk, some steps, a save and a resume.

Dataset, tokenizer, processors and checkpoints are the real ones. It has a directory of its own, which is removed
afterwards; what its trainers print is in the job's log.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi0q.jobs.estimates import duration
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.retention import Retention
from pi0q.workers.checkpoints.sealer import Sealer
from pi0q.workers.hub import requirements
from pi0q.workers.runner.prepare import Prepared
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runner.train import raise_if_stopped
from pi0q.workers.runner.training import LifeEnd, StopAfterSave, TrainerLife
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.stop import Stop, StopCause
from pi0q.workers.trainer import launch
from pi0q.workers.trainer.watchdog import Watchdog

log = logging.getLogger(__name__)

#: Seconds after which a rehearsal is broken off, and the run begins without its word: LeRobot's imports come twice,
#: 25 s each on two cores.
LIMIT_SECONDS = 240.0
#: Ends that say something of the box or the moment, nothing of the job: the run itself will meet them or not.
_ASIDE = frozenset(
    {Reason.TRAINER_KILLED, Reason.PLATFORM_KILLED, Reason.MEMORY_LIMIT, Reason.DISK_FULL, Reason.DISK_BROKEN,
     Reason.HUNG, Reason.CUDA_OUT_OF_MEMORY, Reason.GPU_TAKEN}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    ok: bool
    seconds: float
    #: What was proven, or what failed.
    detail: str
    #: Why the job ends, if it does.
    reason: Reason | None = None

    def to_json(self, box: str) -> dict[str, Any]:
        return {"ok": self.ok, "seconds": round(self.seconds, 1), "detail": self.detail, "box": box}

    def stop(self) -> Stop:
        """How the run ends that it forbids."""
        return Stop(self.reason or Reason.REHEARSAL_FAILED, f"in its rehearsal: {self.detail}")


def wanted(record: Record, spec: Spec, *, resume: Saved | None) -> bool:
    """Whether the run that now begins is rehearsed first: a long one that no rehearsal has passed yet."""
    if resume or record.rehearsal.get("ok") or record.checkpoint:
        return False
    return duration.wants_rehearsal(spec, steps=record.steps or 0, step_seconds=record.step_seconds)


def clean(directory: RunDirectory) -> Path:
    """Removes what a rehearsal that died left behind; where one takes place."""
    place = directory.path / "rehearsal"
    shutil.rmtree(place, ignore_errors=True)
    return place


class RehearsalProgress(Progress):
    """Keeps its own numbers to itself; shows the rehearsal's steps as the phase of the job."""

    def __init__(self, job: Progress) -> None:
        super().__init__(SaveSchedule(steps=0))
        self._job = job

    def on_event(self, event: Mapping[str, Any]) -> None:
        super().on_event(event)
        if event.get("event") in ("start", "step"):
            doing = f"step {event['step']}" if event.get("step") else "importing LeRobot"
            self._job.update(phase=f"rehearsing, {doing}")


def rehearse(session: RunSession, prepared: Prepared) -> None:
    """Rehearse a long run; one that fails ends the job before it costs a day. Raises Stop and OwnershipLost."""
    progress = session.progress
    place = clean(session.context.directory)
    if not wanted(session.context.record, prepared.context.spec, resume=prepared.start.checkpoint):
        return
    progress.update(phase="rehearsing")
    log.info("rehearsal: some steps of the shrunk model, a save and a resume, before the run itself")
    began = time.monotonic()
    try:
        result = Rehearsal(session, prepared.context, RunDirectory(place)).run()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    raise_if_stopped(session)
    assert result is not None, "only a stop request ends a rehearsal without a result"
    result = replace(result, seconds=time.monotonic() - began)
    log.info("rehearsal: %s (%.0f s)", result.detail, result.seconds)
    progress.update(rehearsal=result.to_json(session.context.box), phase="")
    if result.reason:
        raise result.stop()


class Rehearsal:
    """Two lives of a trainer with the shrunk model: from step 0 to a save, and from that save to the end."""

    def __init__(self, session: RunSession, context: RunContext, directory: RunDirectory) -> None:
        """`directory`: of the rehearsal alone."""
        self.session = session
        # Its WandB run is none of the job's.
        record = replace(context.record, wandb_run_id=f"rehearsal-{context.record.id}")
        spec = replace(context.spec, rehearsal=True)
        self.context = replace(context, record=record, spec=spec, directory=directory)
        self.progress = RehearsalProgress(session.progress)
        #: Whether it took too long and was broken off.
        self.late = False

    def run(self) -> Result | None:
        """Return the result; None where a stop of the run was requested."""
        end = self._live(None)
        if end is None:
            return None
        if result := judge_life(end, late=self.late, first=True):
            return result
        checkpoints, lease = self.context.directory.checkpoints, self.session.lease
        saved = local_store.newest(checkpoints, late=None, may_write=lease.is_valid)
        if saved is None:
            return Result(ok=False, seconds=0, detail="its checkpoint does not verify", reason=Reason.REHEARSAL_FAILED)
        end = self._live(saved)
        if end is None:
            return None
        return judge_life(end, late=self.late, first=False) or Result(
            ok=True, seconds=0, detail=f"saved at step {saved.step}, resumed, and went on to the end"
        )

    def _live(self, resume: Saved | None) -> LifeEnd | None:
        """See one life of the trainer through; None where a stop of the run was requested before it."""
        session, context = self.session, self.context
        context.directory.make()
        command = launch.trainer(
            context, resume, requirements.offline_env(context.spec, hf_home=context.settings.hf_home)
        )
        # The lease is that of the run.
        command = replace(command, env={**command.env, "PI0Q_LEASE": str(session.context.directory.lease)})
        life = TrainerLife(
            context=context,
            log=session.log,
            lease=session.lease,
            progress=self.progress,
            watchdog=Watchdog(context.settings.hang_seconds, compiles=False, now=time.monotonic()),
            listeners=self._listeners(stop_after_save=resume is None),
        )
        timer = threading.Timer(LIMIT_SECONDS, self._break_off)
        timer.daemon = True
        try:
            return life.run(command, session.stops, started=lambda _: timer.start())
        finally:
            timer.cancel()

    def _listeners(self, *, stop_after_save: bool) -> list[TrainerListener]:
        session = self.session
        follow_seals: list[TrainerListener] = [
            Retention(self.context.directory.checkpoints, keep=1, lease=session.lease)
        ]
        follow_seals += [StopAfterSave(session.stops)] if stop_after_save else []
        return [Sealer(self.context.epoch, session.lease, self.progress, follow_seals)]

    def _break_off(self) -> None:
        self.late = True
        self.session.stops.stop_trainer(StopCause.CANCEL)


def judge_life(end: LifeEnd, *, late: bool, first: bool) -> Result | None:
    """Return what the end of a life means for the rehearsal; None where all went as planned. Pure."""
    if late:
        detail = f"not finished after {LIMIT_SECONDS:.0f} s; the run starts anyway"
        return Result(ok=False, seconds=0, detail=detail)
    reason, detail = end.diagnosis.reason, end.diagnosis.detail
    # A trainer that has finished was through before its first save was sealed.
    if reason is Reason.FINISHED or (reason is Reason.STOPPED_BY_BOX and first):
        return None
    if not end.exit.hooked:
        return Result(ok=False, seconds=0, detail="this LeRobot can't be hooked, so the rehearsal proves nothing")
    what = detail if first else f"after a resume from its save: {detail}"
    if reason in _ASIDE or reason is Reason.STOPPED_BY_BOX:
        return Result(ok=False, seconds=0, detail=f"{what}; the run starts anyway")
    lasting = Reason.REHEARSAL_FAILED if reason is Reason.TRAINER_FAILED else reason
    return Result(ok=False, seconds=0, detail=what, reason=lasting)
