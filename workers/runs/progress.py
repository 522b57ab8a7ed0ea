"""Progress of a run: the hook's events folded into the fields of the record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import step_of
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.record_codecs import MAX_GPUS
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.spec import Spec
from pi0q.workers.runs.eta import Pace, SaveSchedule
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.training_curve import TrainingCurve

#: What a run does between its steps, in words.
PHASES = {"compiling": "compiling", "stopping": "saving before it stops"}

#: Exceptions behind one that are kept.
CAUSES = 8


class Progress(TrainerListener):
    """Takes events and updates from the runner's threads; the reporter's thread takes the changed fields out."""

    def __init__(self, schedule: SaveSchedule, *, pace: Pace | None = None, vram_peak_mib: int | None = None) -> None:
        """`pace` and `vram_peak_mib` are those of the job's earlier runs."""
        self._lock = threading.Lock()
        self.fields: dict[str, Any] = {"vram_peak_mib": vram_peak_mib}
        self._changed: dict[str, Any] = {}
        self._schedule, self._pace = schedule, pace or Pace()
        #: Loss, learning rate and step time so far.
        self.curve = TrainingCurve()
        #: What goes on beside the steps, by who does it, in words.
        self._beside: dict[str, str] = {}
        self._beside_phase = ""
        #: Version of the trainer's LeRobot, once it told it.
        self.lerobot = ""
        #: The present save: its step, and when it began in seconds since 1970.
        self.saving: tuple[int, float] | None = None
        #: The exception that ended the trainer.
        self.error: Raised | None = None
        #: Those behind it, the nearest first.
        self.causes: tuple[Raised, ...] = ()
        #: The same of each rank but the first, by their numbers: what it raised, and what lies behind.
        self.of_ranks: dict[int, tuple[Raised | None, tuple[Raised, ...]]] = {}
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "start": self._on_start_event,
            "ready": self._on_ready,
            "step": self._on_step,
            "saving": self._on_saving,
            "saved": self._on_saved,
            "evaluating": self._on_evaluating,
            "evaluated": self._on_evaluated,
            "wandb": self._on_wandb,
            "nonfinite": self._on_nonfinite,
            "error": self._on_error,
            "cause": self._on_cause,
            "rank_error": self._on_rank_error,
            "rank_cause": self._on_rank_cause,
            "rank_nonfinite": self._on_rank_nonfinite,
        }

    @classmethod
    def of(cls, record: Record, spec: Spec) -> Progress:
        """Return the progress of a job as a run of it begins."""
        freq, every = number(spec.train, "save_freq"), spec.checkpoints.every_seconds
        schedule = SaveSchedule(steps=record.steps or 0, save_freq=freq, every_seconds=every or None)
        return cls(
            schedule,
            pace=Pace(seconds=record.step_seconds, save_seconds=record.save_seconds),
            vram_peak_mib=record.vram_peak_mib,
        )

    def update(self, **fields: Any) -> None:
        """Set fields of the record; those that change go out with the next report."""
        with self._lock:
            new = {name: value for name, value in fields.items() if self.fields.get(name, ...) != value}
            self.fields |= new
            self._changed |= new

    def take(self) -> dict[str, Any]:
        """Return the fields that changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, {}
        return changed

    def resend_all(self) -> None:
        """Let the next `take` return all fields once more."""
        with self._lock:
            self._changed = dict(self.fields)

    def resume_from(self, checkpoint: Saved | None) -> None:
        """Begin at this checkpoint, or at step 0: steps that were done after it are done again, and counted in."""
        step = checkpoint.step if checkpoint else 0
        self.update(checkpoint=checkpoint, step=step)
        self._estimate(step)

    def on_start(self, pid: int) -> None:
        self.error, self.causes, self.of_ranks = None, (), {}

    def on_event(self, event: Mapping[str, Any]) -> None:
        # An unknown kind is no fault: a newer hook may send more.
        kind = str(event.get("event"))
        self.curve.on_event(event)
        if handler := self._handlers.get(kind):
            handler(event)
        elif kind in PHASES:
            self.update(phase=PHASES[kind])

    def _on_start_event(self, event: Mapping[str, Any]) -> None:
        self.lerobot = str(event.get("lerobot") or "")
        self.update(phase="importing LeRobot")

    def _on_ready(self, event: Mapping[str, Any]) -> None:
        self._schedule = replace(self._schedule, steps=event.get("steps") or self._schedule.steps)
        self._pace.begin()
        self.update(step=event.get("step"), steps=self._schedule.steps, phase="first step")
        self._estimate(int(event.get("step") or 0))

    def _on_saving(self, event: Mapping[str, Any]) -> None:
        self.saving = int(event["step"]), float(event.get("t") or 0)
        self._pace.pause()
        self.update(phase=f"saving step {event['step']}")

    def _on_wandb(self, event: Mapping[str, Any]) -> None:
        self.update(wandb_run_id=event.get("run_id"), wandb_dir=event.get("dir") if event.get("offline") else None)
        if event.get("url"):
            self.update(wandb_url=event["url"])

    def _on_nonfinite(self, event: Mapping[str, Any]) -> None:
        self.error = _non_finite(event)

    def _on_error(self, event: Mapping[str, Any]) -> None:
        self.error = Raised.from_json(event)

    def _on_cause(self, event: Mapping[str, Any]) -> None:
        """Note an exception behind that of the next `error`."""
        cause = Raised.from_json(event)
        if cause and len(self.causes) < CAUSES:
            self.causes = (*self.causes, cause)

    def _on_rank_error(self, event: Mapping[str, Any]) -> None:
        _, causes = self.raised_by(rank := _rank(event))
        self.of_ranks[rank] = Raised.from_json(event), causes

    def _on_rank_cause(self, event: Mapping[str, Any]) -> None:
        error, causes = self.raised_by(rank := _rank(event))
        cause = Raised.from_json(event)
        if cause and len(causes) < CAUSES:
            self.of_ranks[rank] = error, (*causes, cause)

    def _on_rank_nonfinite(self, event: Mapping[str, Any]) -> None:
        self.of_ranks[_rank(event)] = _non_finite(event), ()

    def raised_by(self, rank: int) -> tuple[Raised | None, tuple[Raised, ...]]:
        """Return the exception that ended a rank, None if there was none, and those behind it."""
        return self.of_ranks.get(rank, (None, ())) if rank else (self.error, self.causes)

    def beside(self, who: str, text: str) -> None:
        """Show what `who` does meanwhile, or nothing ("") any more, where the training itself has no phase."""
        with self._lock:
            self._beside = {name: phase for name, phase in {**self._beside, who: text}.items() if phase}
            quiet = self.fields.get("phase", "") in ("", self._beside_phase)
        if quiet:
            self._show_beside()

    @property
    def steps(self) -> int:
        """The last step; 0 while it is unknown."""
        return self._schedule.steps

    def _show_beside(self) -> None:
        self._beside_phase = ", ".join(self._beside.values())
        self.update(phase=self._beside_phase)

    def _on_saved(self, event: Mapping[str, Any]) -> None:
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

    def _on_evaluating(self, _: Mapping[str, Any]) -> None:
        self._pace.pause()
        self.update(phase="evaluating on held-out episodes")

    def _on_evaluated(self, event: Mapping[str, Any]) -> None:
        # The next step begins here.
        if event.get("t"):
            self._pace.step(int(event["step"]), float(event["t"]))
        self._show_beside()

    def _on_step(self, event: Mapping[str, Any]) -> None:
        step = int(event["step"])
        self._pace.step(step, float(event["t"]))
        self.update(step=step, **{name: event[name] for name in ("loss", "lr") if name in event})
        self._show_beside()
        self._estimate(step)
        if event.get("vram_peak_mib"):
            peak = max(int(event["vram_peak_mib"]), self.fields.get("vram_peak_mib") or 0)
            self.update(vram_peak_mib=peak, vram_now_mib=int(event.get("vram_mib") or 0))
        if isinstance(peaks := event.get("vram_peaks_mib"), list):
            self.update(vram_peaks_mib=[max(0, peak) for peak in peaks[:MAX_GPUS] if isinstance(peak, int)])

    def _estimate(self, step: int) -> None:
        pace, left = self._pace.seconds(), self._pace.left(step, self._schedule)
        self.update(
            step_seconds=None if pace is None else round(pace, 4),
            eta_seconds=None if left is None else round(left, 1),
        )


def _non_finite(event: Mapping[str, Any]) -> Raised:
    what, value = event.get("what", "loss"), event.get("value", event.get("loss"))
    return Raised.of("NonFiniteLoss", f"the {what} became {value} at step {event.get('step')}")


def _rank(event: Mapping[str, Any]) -> int:
    """Return the number of the rank that sent an event; of one that no job can have, that of none."""
    rank = event.get("rank")
    return rank if isinstance(rank, int) and 0 < rank < MAX_GPUS else MAX_GPUS


class SaveProgress(TrainerListener):
    """Shows how many bytes of the present save are written."""

    def __init__(self, progress: Progress, checkpoints: Path) -> None:
        self.progress, self.checkpoints = progress, checkpoints

    def on_tick(self) -> None:
        if saving := self.progress.saving:
            before = self.progress.fields.get("checkpoint")
            expected = before.bytes if before else None
            self.progress.update(phase=describe_save(self.checkpoints, saving[0], expected=expected))


#: Bytes below which a save is over too soon to be counted.
WORTH_TELLING = 1_000_000_000


def describe_save(checkpoints: Path, step: int, *, expected: int | None) -> str:
    """Return `saving step 3000 (4.2 of 22.1 GB)`: bytes written, and bytes of the checkpoint before it if known."""
    done = sum(written(place) for place in checkpoints.glob("*") if step_of(place.name) == step)
    if max(done, expected or 0) < WORTH_TELLING:
        return f"saving step {step}"
    # A file of another size than last time is no reason to say more than all.
    return f"saving step {step} ({done / 1e9:.1f}{f' of {max(expected, done) / 1e9:.1f}' if expected else ''} GB)"


def written(place: Path) -> int:
    """Return the bytes of the files in a directory; a file that goes away meanwhile has none."""
    total = 0
    for file in place.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
