"""The order that a box gives to a waiting runner, one line on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the box tells a runner to run."""

    job_id: str
    epoch: int
    #: The interpreter that has LeRobot, and its version.
    python: str
    lerobot: str
    #: The box that owns the job, and its boot, as a server that lost them is told; "": those of the record.
    box: str = ""
    boot: str = ""

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"
