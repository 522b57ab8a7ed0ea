"""Before a worker takes part: wait for the server, check its settings, and make sure of the box's name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis
from redis.exceptions import AuthorizationError

from pi0q.jobs.errors import UsageError
from pi0q.queue.connection import explain
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.heartbeat import CopyFound, NameTaken

logger = logging.getLogger(__name__)

#: Seconds between two log lines about the same trouble.
LOG_SECONDS = 60.0
#: Seconds that another boot of this box has to answer, where the server still has a connection of its worker.
ANSWER_SECONDS, ANSWER_PAUSE = 5.0, 0.1
#: Errors that pass by themselves: a server that starts, restarts, is cut off, full, or not yet promoted.
PASSING = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError)
#: redis-py counts these among connection errors; only a person can fix them.
LASTING = (redis.AuthenticationError, AuthorizationError)
#: Codes of the server for which redis-py has no class: its disk is full; its primary is away.
PASSING_CODES = ("MISCONF", "MASTERDOWN", "NOREPLICAS")


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What keeps the worker from taking part, and after how many seconds it tries again."""

    text: str
    pause: float


class TroubleLog:
    """Logs a trouble when it begins or changes, and once a minute while it lasts."""

    def __init__(self) -> None:
        self._text, self._logged_at = "", 0.0

    def warn(self, trouble: Trouble) -> None:
        """Log the trouble unless the same was logged a moment ago."""
        if trouble.text == self._text and time.monotonic() - self._logged_at < LOG_SECONDS:
            return
        self._text, self._logged_at = trouble.text, time.monotonic()
        logger.warning("%s\nRetrying every %.0f s; running trainings go on.", trouble.text, trouble.pause)


def enter(box: Box, *, patient: bool, wait: Callable[[float], object] = time.sleep) -> None:
    """Announce the box as soon as possible. Raises UsageError and redis.RedisError for what a person must fix.

    A `patient` worker, one that has restarted in place, waits for that person too.
    """
    conflict, log = NameConflict(box), TroubleLog()
    while (trouble := _try(box, conflict, patient=patient, wait=wait)) is not None:
        log.warn(trouble)
        wait(trouble.pause)


def _try(box: Box, conflict: NameConflict, *, patient: bool, wait: Callable[[float], object]) -> Trouble | None:
    """Announce the box; return why that or its claims can't be yet."""
    settings = box.context.settings
    try:
        box.announce()
        _let_original_answer(box, wait)
    except CopyFound:
        raise
    except NameTaken as error:
        if not patient and conflict.is_alive():
            raise
        silent = settings.timing.silent
        text = f"{error}\nThis worker waits until that machine has sent no heartbeat for {silent:.0f} s."
        return Trouble(text=text, pause=settings.timing.retry)
    except redis.RedisError as error:
        if not (patient or passing(error)):
            raise
        explained = explain(error, settings)
        return Trouble(text=f"{explained.what}\n{explained.fix}", pause=settings.timing.retry)
    if not box.context.server_trouble:
        return None
    if not patient:
        raise UsageError(f"{box.context.server_trouble}\nThis worker was not started.")
    return Trouble(text=box.context.server_trouble, pause=settings.timing.beat)


def _let_original_answer(box: Box, wait: Callable[[float], object]) -> None:
    """Ask whether the boot that had this box's entry a moment ago still runs. Raises CopyFound if it does.

    A box that restarted quickly does not wait: nobody listens for its former boot any more. Before this is known the
    box must not recover: it would end the trainings of the machine that it was copied from.
    """
    reply, store = box.registration.reply, box.context.store
    if reply is None or not reply.displaced or not store.wake(box.name, ""):
        return
    give_up = time.monotonic() + ANSWER_SECONDS
    while store.boot_of(box.name) == box.context.identity.boot and time.monotonic() < give_up:
        wait(ANSWER_PAUSE)
    box.announce()


def passing(error: redis.RedisError) -> bool:
    """Return whether the error may pass without anyone's doing."""
    if isinstance(error, LASTING):
        return False
    return isinstance(error, PASSING) or str(error).startswith(PASSING_CODES)


class NameConflict:
    """Another machine of this box's name: is it up, or was its last heartbeat only a short while ago?

    It may be this very machine, with its data disk emptied and so with another id.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self._first_seen: float | None = None

    def is_alive(self) -> bool:
        """Return whether it sent a heartbeat since the first call."""
        store = self.box.context.store
        seen = float(store.client.zscore(f"{store.prefix}boxes", self.box.name) or 0.0)
        self._first_seen = seen if self._first_seen is None else self._first_seen
        return seen > self._first_seen
