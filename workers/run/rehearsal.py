"""The rehearsal before a long run: the same job with its model shrunk, some steps, a save and a resume.

Dataset, tokenizer, processors and checkpoints are the real ones. It has a directory of its own, which is removed
afterwards; what its trainers print is in the job's log.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi0q.jobs import duration
from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.run import fetches, launch, saves
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.hang import Watch
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.log import Log
from pi0q.workers.run.order import Order
from pi0q.workers.run.pace import Plan
from pi0q.workers.run.progress import Progress
from pi0q.workers.run.stop import Stop
from pi0q.workers.run.training import Training

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


class _Steps(Progress):
    """Its own numbers are nobody's; its steps are shown as what the job does now."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(Plan(steps=0))
        self.show = show

    def event(self, event: Mapping[str, Any]) -> None:
        super().event(event)
        if event.get("event") in ("start", "step"):
            self.show(f"rehearsing, step {event['step']}" if event.get("step") else "rehearsing, importing LeRobot")


@dataclass(kw_only=True)
class Rehearsal:
    """One rehearsal."""

    order: Order
    record: Record
    spec: Spec
    settings: Settings
    directory: RunDirectory
    log: Log
    lease: Lease
    #: Shows what goes on.
    show: Callable[[str], None]
    #: As for Training.
    on: Callable[[str], None]
    #: Starts a trainer unless someone outside wants an end; None then.
    begin: Callable[[Callable[[], Training]], Training | None]

    def run(self) -> Result | None:
        """Both lives of its trainer; None where an end was wished from outside."""
        place, began = clean(self.directory), time.monotonic()
        self.small = RunDirectory(place)
        self.found: Diagnosis | None
        self.late, self.steps, self.found = False, _Steps(self.show), None
        self.log.say("rehearsal: some steps of the shrunk model, a save and a resume, before the run itself")
        try:
            result = self._lives()
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if result is None:
            return None
        result = replace(result, seconds=time.monotonic() - began)
        self.log.say(f"rehearsal: {result.detail} ({result.seconds:.0f} s)")
        return result

    def _lives(self) -> Result | None:
        code = self._life(None)
        if code is None:
            return None
        if result := self._judged(code, first=True):
            return result
        saved = saves.newest(self.small.checkpoints, self.log.say, late=None, ours=self.lease.ours)
        if saved is None:
            return Result(ok=False, seconds=0, detail="its save does not verify", reason=Reason.REHEARSAL_FAILED)
        code = self._life(saved)
        if code is None:
            return None
        return self._judged(code, first=False) or Result(
            ok=True, seconds=0, detail=f"saved at step {saved.step}, resumed, and went on to the end"
        )

    def _life(self, resume: Saved | None) -> int | None:
        """One life of the trainer; its exit code."""
        small = replace(self.spec, rehearsal=True)
        self.small.make()
        home = fetches.offline_env(small, hf_home=self.settings.hf_home)
        # Its WandB run is none of the job's.
        record = replace(self.record, wandb_run_id=f"rehearsal-{self.record.id}")
        argv, env = launch.trainer(self.order, record, small, self.settings, self.small, resume, home)
        env["PI0Q_LEASE"] = str(self.directory.lease)
        training = self.begin(lambda: self._spawn(argv, env, stop_after_save=resume is None))
        if training is None:
            return None
        timer = threading.Timer(LIMIT_SECONDS, self._too_long, [training])
        timer.daemon = True
        timer.start()
        try:
            code = training.wait()
        finally:
            timer.cancel()
        self.hooked = training.hooked
        self.found = training.found(code, train=self.spec.train, lerobot=self.order.lerobot)
        return code

    def _too_long(self, training: Training) -> None:
        self.late = True
        training.stop("cancel")

    def _spawn(self, argv: list[str], env: Mapping[str, str], *, stop_after_save: bool) -> Training:
        return Training(
            argv=argv,
            env=env,
            directory=self.small,
            job_id=self.order.job_id,
            epoch=self.order.epoch,
            keep=1,
            mib_before=0,
            log=self.log,
            progress=self.steps,
            lease=self.lease,
            watch=Watch(self.settings.hang_seconds, compiles=False, now=time.monotonic()),
            on=self.on,
            stop_after_save=stop_after_save,
        )

    def _judged(self, code: int, *, first: bool) -> Result | None:
        """What the end of a life means; None where all went as planned."""
        if self.late:
            return Result(
                ok=False, seconds=0, detail=f"not over after {LIMIT_SECONDS:.0f} s; the run begins all the same"
            )
        assert self.found is not None
        reason, told = self.found.reason, self.found.detail
        if reason is Reason.STOPPED_BY_BOX and first:
            return None
        if reason is Reason.FINISHED:
            # It was over before its first save was sealed.
            return None
        if not self.hooked:
            return Result(ok=False, seconds=0, detail="this LeRobot can't be hooked, so nothing was proven")
        what = told if first else f"after a resume from its save: {told}"
        if reason in _ASIDE or reason is Reason.STOPPED_BY_BOX:
            return Result(ok=False, seconds=0, detail=f"{what}; the run begins all the same")
        lasting = Reason.REHEARSAL_FAILED if reason is Reason.TRAINER_FAILED else reason
        return Result(ok=False, seconds=0, detail=what, reason=lasting)
