"""How a run ends before its time, and what from outside can end it."""

from __future__ import annotations

from pi0q.jobs.outcome import Reason

#: What weighs more of what comes from outside.
WEIGHT = {"": 0, "stop": 1, "fenced": 1, "hung": 1, "cancel": 2, "lost": 3}


class Stop(Exception):
    """The run ends here for a reason; whoever refused us may have asked us to stay away for some seconds."""

    def __init__(self, reason: Reason, detail: str, asked_seconds: float = 0.0) -> None:
        self.reason, self.detail, self.asked_seconds = reason, detail, asked_seconds
        super().__init__(f"{reason}: {detail}")


class Lost(Exception):
    """The job is no longer ours; nothing may be written any more."""
