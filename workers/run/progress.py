"""How far a run is: the hook's events folded into the fields of the record."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

#: Steps over which the pace is taken.
WINDOW = 100
#: What a run does between its steps, in words.
PHASES = {
    "start": "importing LeRobot",
    "compiling": "compiling",
    "stopping": "saving before it stops",
    "pushing": "pushing the model",
}


class Progress:
    """Fed by the runner's threads, emptied by the reporter's."""

    def __init__(self, steps: int | None, *, vram_peak_mib: int | None = None) -> None:
        """`steps` is the last step; `vram_peak_mib` the peak of the job's earlier runs."""
        self._lock = threading.Lock()
        self.fields: dict[str, Any] = {"vram_peak_mib": vram_peak_mib}
        self._changed: dict[str, Any] = {}
        self._steps = steps
        self._times: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        #: The exception that ended the trainer, as (type, message).
        self.error: tuple[str, str] | None = None

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

    def event(self, event: Mapping[str, Any]) -> None:
        """Folds one event of the hook; an unknown kind is no fault (a newer hook may send more)."""
        kind = event.get("event")
        if kind == "step":
            self._step(event)
        elif kind == "ready":
            self._times.clear()
            self._steps = event.get("steps") or self._steps
            self.update(step=event.get("step"), steps=self._steps, phase="first step")
        elif kind == "saving":
            self.update(phase=f"saving step {event.get('step')}")
        elif kind == "saved":
            # A save is no step: the pace starts afresh behind it.
            self._times.clear()
            self.update(phase="")
        elif kind == "wandb":
            self.update(wandb_run_id=event.get("run_id"), wandb_dir=event.get("dir") if event.get("offline") else None)
            if event.get("url"):
                self.update(wandb_url=event["url"])
        elif kind == "nonfinite":
            self.error = ("NonFiniteLoss", f"the loss was {event.get('loss')} at step {event.get('step')}")
        elif kind == "error":
            self.error = (str(event.get("type")), str(event.get("message")))
        elif kind in PHASES:
            self.update(phase=PHASES[str(kind)])

    def _step(self, event: Mapping[str, Any]) -> None:
        step, at = int(event["step"]), float(event["t"])
        self._times.append((at, step))
        pace = self._pace()
        self.update(
            step=step,
            loss=event.get("loss"),
            lr=event.get("lr"),
            phase="",
            step_seconds=round(pace, 4) if pace else None,
            eta_seconds=round(pace * (self._steps - step), 1) if pace and self._steps else None,
        )
        if event.get("vram_peak_mib"):
            peak = max(int(event["vram_peak_mib"]), self.fields.get("vram_peak_mib") or 0)
            self.update(vram_peak_mib=peak, vram_now_mib=int(event.get("vram_mib") or 0))

    def _pace(self) -> float | None:
        """Seconds a step, data loading included, over the last steps."""
        (first, low), (last, high) = self._times[0], self._times[-1]
        return (last - first) / (high - low) if high > low else None
