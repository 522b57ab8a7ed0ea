"""How far a run is: the hook's events folded into the fields of the record."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.workers.run import saving
from pi0q.workers.run.pace import Pace, Plan

#: LeRobot's own steps between saves.
SAVE_FREQ = 20_000
#: What a run does between its steps, in words.
PHASES = {"compiling": "compiling", "stopping": "saving before it stops"}


class Progress:
    """Fed by the runner's threads, emptied by the reporter's."""

    def __init__(self, plan: Plan, *, pace: Pace | None = None, vram_peak_mib: int | None = None) -> None:
        """`pace` knows that of the job's earlier runs, and `vram_peak_mib` is their peak."""
        self._lock = threading.Lock()
        self.fields: dict[str, Any] = {"vram_peak_mib": vram_peak_mib}
        self._changed: dict[str, Any] = {}
        self._plan, self._pace = plan, pace or Pace()
        #: What goes on beside the steps, by who does it, in words.
        self._beside: dict[str, str] = {}
        self._said = ""
        #: Version of the trainer's LeRobot, once it told it.
        self.lerobot = ""
        #: The present save: its step, and when it began in seconds since 1970.
        self.saving: tuple[int, float] | None = None
        #: The exception that ended the trainer, as (type, message).
        self.error: tuple[str, str] | None = None
        #: Those behind it, the nearest first, each `Name: text`.
        self.causes: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: Record, spec: Spec) -> Progress:
        """The progress of a job as a run of it begins."""
        save_freq, every = spec.train.get("save_freq"), spec.checkpoints.every_seconds
        freq = save_freq if isinstance(save_freq, int) else SAVE_FREQ
        plan = Plan(steps=record.steps or 0, save_freq=freq, every_seconds=every or None)
        return cls(
            plan,
            pace=Pace(seconds=record.step_seconds, save_seconds=record.save_seconds),
            vram_peak_mib=record.vram_peak_mib,
        )

    def update(self, **fields: Any) -> None:
        """Sets fields of the record; those that change go out with the next report."""
        with self._lock:
            new = {name: value for name, value in fields.items() if self.fields.get(name, ...) != value}
            self.fields |= new
            self._changed |= new

    def take(self) -> dict[str, Any]:
        """What changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, {}
        return changed

    def again(self) -> None:
        """Lets the next `take` give all fields once more."""
        with self._lock:
            self._changed = dict(self.fields)

    def goes_on(self, checkpoint: Saved | None) -> None:
        """From this checkpoint, or from step 0: what was done behind it is done again, and counted in."""
        step = checkpoint.step if checkpoint else 0
        self.update(checkpoint=checkpoint, step=step)
        self._estimate(step)

    def event(self, event: Mapping[str, Any]) -> None:
        """Folds one event of the hook; an unknown kind is no fault (a newer hook may send more)."""
        kind = event.get("event")
        if kind == "step":
            self._step(event)
        elif kind == "start":
            self.lerobot = str(event.get("lerobot") or "")
            self.update(phase="importing LeRobot")
        elif kind == "ready":
            self._plan = replace(self._plan, steps=event.get("steps") or self._plan.steps)
            self._pace.begin()
            self.update(step=event.get("step"), steps=self._plan.steps, phase="first step")
            self._estimate(int(event.get("step") or 0))
        elif kind == "saving":
            self.saving = int(event["step"]), float(event.get("t") or 0)
            self._pace.pause()
            self.update(phase=f"saving step {event['step']}")
        elif kind == "saved":
            self._saved(event)
        elif kind == "wandb":
            self.update(wandb_run_id=event.get("run_id"), wandb_dir=event.get("dir") if event.get("offline") else None)
            if event.get("url"):
                self.update(wandb_url=event["url"])
        elif kind == "nonfinite":
            what, value = event.get("what", "loss"), event.get("value", event.get("loss"))
            self.error = ("NonFiniteLoss", f"the {what} became {value} at step {event.get('step')}")
        elif kind == "error":
            self.error = (str(event.get("type")), str(event.get("message")))
            causes = event.get("causes")
            self.causes = tuple(map(str, causes)) if isinstance(causes, list) else ()
        elif kind in PHASES:
            self.update(phase=PHASES[str(kind)])

    def beside(self, who: str, text: str) -> None:
        """What `who` does meanwhile, `verifying step 3000` or nothing: shown where the training itself has no phase."""
        with self._lock:
            self._beside = {name: said for name, said in {**self._beside, who: text}.items() if said}
            quiet = self.fields.get("phase", "") in ("", self._said)
        if quiet:
            self._show_beside()

    @property
    def steps(self) -> int:
        """The last step; 0 while it is unknown."""
        return self._plan.steps

    def growing(self, checkpoints: Path) -> None:
        """Looks how far the present save is."""
        if self.saving:
            before = self.fields.get("checkpoint")
            expected = before.bytes if before else None
            self.update(phase=saving.said(checkpoints, self.saving[0], expected=expected))

    def _show_beside(self) -> None:
        self._said = ", ".join(self._beside.values())
        self.update(phase=self._said)

    def _saved(self, event: Mapping[str, Any]) -> None:
        began, self.saving = self.saving, None
        seconds = event.get("seconds")
        if seconds is None and began and event.get("t"):
            seconds = float(event["t"]) - began[1]
        if seconds is not None:
            self._pace.saved(float(seconds))
        # The next step begins here.
        self._pace.pause()
        if "step" in event and event.get("t"):
            self._pace.step(int(event["step"]), float(event["t"]))
        self._show_beside()
        if "step" in event:
            self._estimate(int(event["step"]))

    def _step(self, event: Mapping[str, Any]) -> None:
        step = int(event["step"])
        self._pace.step(step, float(event["t"]))
        self.update(step=step, **{name: event[name] for name in ("loss", "lr") if name in event})
        self._show_beside()
        self._estimate(step)
        if event.get("vram_peak_mib"):
            peak = max(int(event["vram_peak_mib"]), self.fields.get("vram_peak_mib") or 0)
            self.update(vram_peak_mib=peak, vram_now_mib=int(event.get("vram_mib") or 0))

    def _estimate(self, step: int) -> None:
        pace, left = self._pace.seconds(), self._pace.left(step, self._plan)
        self.update(
            step_seconds=None if pace is None else round(pace, 4),
            eta_seconds=None if left is None else round(left, 1),
        )
