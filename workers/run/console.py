"""LeRobot's console lines as events, for a LeRobot that can't be hooked. Numbers there are rounded: `step:12K`."""

from __future__ import annotations

import re
from typing import Any

#: As lerobot_train.py logs it: `step:5 smpl:10 ep:0 epch:0.05 loss:63.209 grdn:303.550 lr:1.0e-05 updt_s:0.280 …`.
STEP = re.compile(r"\bstep:(?P<count>[\d.]+)(?P<unit>[KMB]?) .*?\bloss:(?P<loss>\S+) .*?\blr:(?P<lr>\S+)")
SAVING = re.compile(r"Checkpoint policy after step (\d+)")
UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}


def event(line: str, at: float) -> dict[str, Any] | None:
    """The event that the hook would have sent for a line, `at` in seconds; None for any other line."""
    if found := SAVING.search(line):
        return {"event": "saving", "t": at, "step": int(found[1])}
    if not (found := STEP.search(line)):
        return None
    try:
        step = round(float(found["count"]) * UNITS[found["unit"]])
        return {"event": "step", "t": at, "step": step, "loss": float(found["loss"]), "lr": float(found["lr"])}
    except ValueError:
        return None
