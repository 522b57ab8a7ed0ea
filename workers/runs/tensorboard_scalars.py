"""Which numbers of a trainer's events TensorBoard shows, and where: one directory a job. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

#: Field of a `step` event -> tag.
TAGS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "update_s": "train/update_seconds",
    "data_s": "train/data_seconds",
}
STEP_SECONDS, EVAL_LOSS = "train/step_seconds", "eval/loss"
#: Steps of one trainer's life of which each is written; of those after them every THINNED.
MOST_STEPS, THINNED = 20_000, 10
#: Events after which the next step does not follow the last one at once.
BREAKS = frozenset({"ready", "saving", "saved", "compiling", "evaluating", "evaluated"})


def directory(place: Path, name: str, job_id: str) -> Path:
    """Return the directory of a job: its name is a user's, and may hold anything."""
    return place / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name).strip('.')[:80]}-{job_id}"


class Scalars:
    """Turns events into lines for the writer's process."""

    def __init__(self) -> None:
        #: Step and time of the event before, None where something came between.
        self._before: tuple[int, float] | None = None
        self._steps = 0

    def of(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return step, time and values by tag; None where there are none. A trainer can say anything of itself."""
        kind = event.get("event")
        if kind in BREAKS:
            self._before = None
        step, at = event.get("step"), event.get("t")
        if type(step) is not int or not 0 <= step < 1 << 53 or not _is_number(at) or at < 0:
            return None
        if kind == "evaluated":
            values = {EVAL_LOSS: event.get("eval_loss")}
        elif kind == "step":
            values = {tag: event.get(name) for name, tag in TAGS.items()} | {STEP_SECONDS: self._seconds(step, at)}
        else:
            return None
        found = {tag: float(value) for tag, value in values.items() if _is_number(value)}
        return {"step": step, "t": float(at), "scalars": found} if found else None

    def _seconds(self, step: int, at: float) -> float | None:
        before, self._before = self._before, (step, at)
        return (at - before[1]) / (step - before[0]) if before and step > before[0] and at > before[1] else None

    def is_due(self, line: Mapping[str, Any]) -> bool:
        """Return whether a line is to be written: long trainings are thinned, held-out losses never."""
        if EVAL_LOSS in line["scalars"]:
            return True
        self._steps += 1
        return self._steps <= MOST_STEPS or self._steps % THINNED == 0


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
