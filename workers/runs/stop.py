"""How a run ends before its time: the causes from outside, and the exception that ends the run."""

from __future__ import annotations

import errno
from enum import Enum

from pi0q.jobs.failures.diagnosis import Diagnosis
from pi0q.jobs.outcome import Reason


class StopCause(Enum):
    """Why a run is asked to stop while it prepares or trains."""

    #: The user cancelled the job.
    CANCEL = (2, Reason.CANCELLED_BY_USER, "cancelled by its user")
    #: The job belongs to another claim now: the trainer is killed without any output, nothing more may be written.
    LOST = (3, Reason.STOPPED_BY_BOX, "another claim owns the job now")
    #: The lease was not renewed in time.
    FENCED = (1, Reason.STOPPED_BY_BOX, "the queue could not be reached for too long")
    #: The job is handed back: a hold, a drain, or SIGTERM to the runner.
    HANDBACK = (1, Reason.STOPPED_BY_BOX, "asked to hand the job back")
    #: The watchdog saw no step for too long.
    HUNG = (1, Reason.HUNG, "no step for too long")
    #: The data disk runs low, and one more save fits.
    DISK_LOW = (1, Reason.DISK_LOW, "the data disk ran low")
    #: The data disk runs low, and no save fits.
    DISK_FULL = (1, Reason.DISK_FULL, "the data disk is full")
    #: The job has trained for as long as its file allows.
    TIME_LIMIT = (1, Reason.TIME_LIMIT, "its time_limit is reached")
    #: The rehearsal of a resume has its first sealed checkpoint. No end of the run, so it weighs nothing.
    REHEARSED = (0, Reason.STOPPED_BY_BOX, "saved and stopped as planned")

    def __init__(self, weight: int, reason: Reason, text: str) -> None:
        #: A cause replaces one of less weight.
        self.weight = weight
        #: The reason with which the run ends, and the sentence for its user.
        self.reason, self.text = reason, text

    @property
    def kill_now(self) -> bool:
        """Whether the trainer is killed at once, without a log line."""
        return self is StopCause.LOST

    @property
    def save_first(self) -> bool:
        """Whether the trainer saves before it stops."""
        return self in _SAVE_FIRST

    @classmethod
    def requested(cls, request: str) -> StopCause | None:
        """Return the cause of a stop request on the record (`UserRequests.end`); None for none or an unknown."""
        return {"cancel": cls.CANCEL, "stop": cls.HANDBACK}.get(request)


_SAVE_FIRST = frozenset(
    {StopCause.FENCED, StopCause.HANDBACK, StopCause.DISK_LOW, StopCause.REHEARSED, StopCause.TIME_LIMIT}
)


class Stop(Exception):
    """Ends the run for a reason; `asked_seconds`: how long the Hub asked to wait, if it did."""

    def __init__(self, reason: Reason, detail: str, asked_seconds: float = 0.0, found: Diagnosis | None = None) -> None:
        self.reason, self.detail, self.asked_seconds = reason, detail, asked_seconds
        #: What its trainer died of, if it had one.
        self.found = found
        super().__init__(f"{reason}: {detail}")

    @classmethod
    def by(cls, error: Exception) -> Stop:
        """Return the end by a fault of the runner itself."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = Reason.DISK_FULL if full else Reason.RUNNER_LOST
        return cls(reason, f"the runner failed with {type(error).__name__}: {error}")

    @classmethod
    def of(cls, found: Diagnosis) -> Stop:
        """Return the end by what the trainer died of."""
        return cls(found.reason, found.detail, found=found)
