"""How a run ends before its time, and what from outside can end it."""

from __future__ import annotations

import errno

from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.outcome import Reason

#: What weighs more of what comes from outside.
WEIGHT = {"": 0, "stop": 1, "fenced": 1, "hung": 1, "disk": 1, "full": 1, "cancel": 2, "lost": 3}


class Stop(Exception):
    """The run ends here for a reason; whoever refused us may have asked us to stay away for some seconds."""

    def __init__(self, reason: Reason, detail: str, asked_seconds: float = 0.0, found: Diagnosis | None = None) -> None:
        self.reason, self.detail, self.asked_seconds = reason, detail, asked_seconds
        #: What its trainer died of, if it had one.
        self.found = found
        super().__init__(f"{reason}: {detail}")

    @classmethod
    def by(cls, error: Exception) -> Stop:
        """A fault of the runner itself."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = Reason.DISK_FULL if full else Reason.RUNNER_LOST
        return cls(reason, f"the runner failed with {type(error).__name__}: {error}")

    @classmethod
    def of(cls, found: Diagnosis) -> Stop:
        """What a trainer died of."""
        return cls(found.reason, found.detail, found=found)


class Lost(Exception):
    """The job is no longer ours; nothing may be written any more."""
