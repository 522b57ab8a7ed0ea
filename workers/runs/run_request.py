"""Run request: one line of JSON that a worker writes to a waiting runner's standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Which claim a runner is to run, and with which interpreter."""

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
