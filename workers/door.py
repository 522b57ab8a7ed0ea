"""Before a worker takes part: the server is waited for, its rules are looked at, and the box's name is made sure of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import redis
from redis.exceptions import AuthorizationError

from pi0q.jobs.errors import UsageError
from pi0q.queue.connection import explain
from pi0q.workers.box import Box
from pi0q.workers.presence import NameTaken

logger = logging.getLogger("pi0q")

#: Seconds between two words on the same trouble.
SAY_SECONDS = 60.0
#: What passes by itself: a server that starts, restarts, is cut off, full, or not yet promoted.
PASSING = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError)
#: redis-py counts these among connection errors; no patience mends them.
LASTING = (redis.AuthenticationError, AuthorizationError)
#: Codes of the server's that redis-py has no class for: its disk is full; its primary is away.
PASSING_CODES = ("MISCONF", "MASTERDOWN", "NOREPLICAS")


def enter(box: Box, *, patient: bool, wait: Callable[[float], object] = time.sleep) -> None:
    """Announces the box, as soon as that can be. Raises UsageError and redis.RedisError for what a person must mend.

    A worker that has been at work already is `patient`: it waits for the person too.
    """
    said, last = "", 0.0
    rival = Rival(box)
    while True:
        pause = box.settings.timing.retry
        try:
            box.announce()
            if not box.trouble:
                return
            if not patient:
                raise UsageError(f"{box.trouble}\nThis worker was not started.")
            trouble, pause = box.trouble, box.settings.timing.beat
        except NameTaken as error:
            if not patient and rival.lives():
                raise
            trouble = f"{error}\nIt waits until that one has been silent for {box.settings.timing.silent:.0f} s."
        except redis.RedisError as error:
            if not (patient or passing(error)):
                raise
            trouble = str(explain(error, box.settings)).replace("\nNothing was changed.", "")
        if trouble != said or time.monotonic() - last >= SAY_SECONDS:
            logger.warning("%s\nWaiting, and trying again every %.0f s; running trainings go on.", trouble, pause)
            said, last = trouble, time.monotonic()
        wait(pause)


def passing(error: redis.RedisError) -> bool:
    """Whether it may be over in a while without anyone's doing."""
    if isinstance(error, LASTING):
        return False
    return isinstance(error, PASSING) or str(error).startswith(PASSING_CODES)


class Rival:
    """Another machine of our name: does it live, or was it only heard of a short while ago?

    The machine may be this very one, with its data disk emptied and so with another id.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self._heard: float | None = None

    def lives(self) -> bool:
        """Whether it was heard of since the first call."""
        store = self.box.store
        heard = float(store.client.zscore(f"{store.prefix}boxes", self.box.name) or 0.0)
        self._heard = heard if self._heard is None else self._heard
        return heard > self._heard
