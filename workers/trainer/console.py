"""LeRobot's console as events, for a LeRobot that can't be hooked, and torch's output while it compiles.

Numbers in LeRobot's lines are rounded (`step:12K`). Its bar is exact, but begins at 0 on a resume: it counts to what
was left then.
"""

from __future__ import annotations

import re
from typing import Any

#: As lerobot_train.py logs it: `step:5 smpl:10 ep:0 epch:0.05 loss:63.209 grdn:303.550 lr:1.0e-05 updt_s:0.280 …`.
STEP = re.compile(r"\bstep:(?P<count>[\d.]+)(?P<unit>[KMB]?) .*?\bloss:(?P<loss>\S+) .*?\blr:(?P<lr>\S+)")
#: As tqdm draws it: `Training:   5%|▌         | 5/100 [00:01<00:19,  4.90step/s]`.
BAR = re.compile(rb"Training: +\d+%\|[^|\r\n]*\| (\d+)/(\d+) \[")
SAVING = re.compile(r"Checkpoint policy after step (\d+)")
UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
#: What torch prints for 10 to 30 minutes while it tries kernels; it passes over those too big for this GPU.
COMPILING = re.compile(r"\bAUTOTUNE\b|out of resource: |OutOfResources|No valid triton configs")


def compiling(line: str) -> bool:
    """Return whether a compilation printed this line."""
    return bool(COMPILING.search(line))


class Console:
    """Reads one life of a trainer that sends no events. A step never goes back."""

    def __init__(self, steps: int) -> None:
        """`steps`: the training's last step."""
        self.steps, self.step, self.exact = steps, 0, False

    def bar(self, chunk: bytes, at: float) -> dict[str, Any] | None:
        """Return the step of the newest bar in the output, `at` in seconds; None if there is none, or nothing new."""
        found = BAR.findall(chunk)
        if not found or not self.steps:
            return None
        done, total = map(int, found[-1])
        step = self.steps - total + done
        if step <= self.step or not done:
            return None
        self.step, self.exact = step, True
        return {"event": "step", "t": at, "step": step}

    def line(self, line: str, at: float) -> dict[str, Any] | None:
        """Return the event that the hook would have sent for a line, `at` in seconds; None for any other line."""
        if found := SAVING.search(line):
            self.step = max(self.step, int(found[1]))
            return {"event": "saving", "t": at, "step": int(found[1])}
        if not (found := STEP.search(line)):
            return None
        try:
            rounded = round(float(found["count"]) * UNITS[found["unit"]])
            numbers = {"loss": float(found["loss"]), "lr": float(found["lr"])}
        except ValueError:
            return None
        self.step = self.step if self.exact else max(self.step, rounded)
        return {"event": "step", "t": at, "step": self.step, **numbers}
