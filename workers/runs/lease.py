"""Lease of a run: how long it may act for its job, by a clock that goes on while the machine sleeps.

The trainer reads the same two times from a file of 16 bytes (see pi0q_trainer/lease.py), so that it stops by itself
where its runner stands still and can't stop it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from pi0q.queue.ownership_lost import OwnershipLost

#: Two little-endian numbers, nanoseconds of CLOCK_BOOTTIME: the fence, and the end of the lease.
FILE = struct.Struct("<QQ")
#: Seconds before its end at which what has not stopped is killed; half of what the fence leaves if that is less.
MARGIN_SECONDS = 10.0


def boottime() -> float:
    """Return the seconds since the machine's start, with those in which it was suspended; never set back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The lease of one claim since its last renewal. Every time is one of `clock`, in seconds."""

    def __init__(
        self, path: Path, *, seconds: float, fence: float, since: float, clock: Callable[[], float] = boottime
    ) -> None:
        """`since`: a time before the server was asked for it; `fence`: seconds after which the run is to stop."""
        self.path, self.seconds, self.fence_seconds, self.clock = path, seconds, fence, clock
        #: Whether the job is another's.
        self.revoked = False
        # A new file: the trainer of an earlier claim keeps looking at its own times.
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Written, not only sized: on a full disk this says so, where a mapping would be ended by SIGBUS.
            os.write(handle, bytes(FILE.size))
            self._shared = mmap.mmap(handle, FILE.size)
        finally:
            os.close(handle)
        self.renewed(since)

    def renewed(self, since: float) -> None:
        """Note a renewal; `since` is a time before the server was asked, not that of its answer."""
        self.since = since
        self._publish()

    def revoke(self) -> None:
        """End the lease at once and for good, also for the trainer: another claim owns the job."""
        self.revoked = True
        self._publish()

    def _publish(self) -> None:
        # One copy of 16 bytes: a reader never sees half a number.
        self._shared[:] = FILE.pack(int(self.fence_at * 1e9), int(self.end * 1e9))

    @property
    def fence_at(self) -> float:
        """When a run that could not renew its lease saves and stops."""
        return 0.0 if self.revoked else self.since + self.fence_seconds

    @property
    def end(self) -> float:
        """From when on nothing may be written under this claim."""
        return 0.0 if self.revoked else self.since + self.seconds

    @property
    def last_call(self) -> float:
        """When a trainer that is still saving is killed, so that it is dead at the end."""
        return self.end - min(MARGIN_SECONDS, (self.seconds - self.fence_seconds) / 2)

    def fenced(self) -> bool:
        """Return whether the run is to save and stop."""
        return self.clock() >= self.fence_at

    def is_valid(self) -> bool:
        """Return whether the owner may write now under its claim number."""
        return self.clock() < self.end

    def require_valid(self) -> None:
        """Raise LeaseExpired where the owner may not write any more."""
        if not self.is_valid():
            raise LeaseExpired


class LeaseExpired(OwnershipLost):
    """The lease ended before the files could be changed; they are as they were."""
