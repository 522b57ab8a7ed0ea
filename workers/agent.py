"""The agent: the thread of a worker that wakes, measures, judges and claims. It sleeps on a subscription."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from celery import bootsteps

from pi0q.jobs.errors import Pi0qError
from pi0q.queue.store import heard
from pi0q.workers import interpreter
from pi0q.workers.box import Box
from pi0q.workers.presence import NameTaken

if TYPE_CHECKING:
    from redis.client import PubSub

logger = logging.getLogger("pi0q")

#: Seconds between two complaints of the same trouble.
COMPLAIN_SECONDS = 60.0


class Agent(threading.Thread):
    """Claims for one box until it is stopped."""

    def __init__(self, box: Box, give_up: Callable[[str], None]) -> None:
        """`give_up` ends this worker, for the reason it is given."""
        super().__init__(name="agent", daemon=True)
        self.box, self.timing, self.give_up = box, box.settings.timing, give_up
        self._waking: PubSub | None = None
        self._next_beat = 0.0
        self._told: dict[str, str] = {}
        self._complained = -COMPLAIN_SECONDS

    def run(self) -> None:
        self.box.launcher.warm()
        started = False
        while not self.box.stopping.is_set():
            try:
                self._waking = self._waking or self.box.store.subscribe("wake")
                self.beat()
                self.box.recover(at_start=not started)
                started = True
                self.poll()
                self.sleep()
            except redis.RedisError as error:
                self.complain("can't reach the queue (%s); running trainings go on, trying again", error)
                self._waking = None
                self.box.stopping.wait(self.timing.retry)
            except NameTaken as error:
                self.give_up(str(error))
                return
            except Pi0qError as error:
                logger.error("%s", error)
                self.box.stopping.wait(self.timing.beat)
            except Exception:
                # A disk or driver that fails for a moment must not end the one thread that claims.
                logger.exception("can't look for jobs; running trainings go on, trying again")
                self.box.stopping.wait(self.timing.beat)

    def complain(self, text: str, error: Exception) -> None:
        """Not at each of the many tries that a night without a server has."""
        if time.monotonic() - self._complained >= COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            logger.warning(text, error)

    def poll(self) -> None:
        """One round: claim what fits."""
        self._complained = -COMPLAIN_SECONDS
        if isinstance(self.box.trainer, interpreter.NoTrainer):
            self.box.trainer = interpreter.find(self.box.settings)
        self.box.gate.begin(self.box.trainer)
        self.box.claim()
        if self.box.refusals != self._told:
            self.announce()

    def announce(self) -> None:
        self.box.announce()
        self._told = self.box.refusals

    def beat(self) -> None:
        """Now and then: tells the world and mends what is broken. A box whose name was taken goes no further."""
        if time.monotonic() >= self._next_beat:
            self.announce()
            self.box.store.sweep(every_seconds=self.timing.sweep)
            self._next_beat = time.monotonic() + self.timing.beat

    def sleep(self) -> None:
        """Until a job comes or there is room, and no longer than a beat."""
        assert self._waking is not None
        wait = min(self.timing.beat, self.box.presence.regroup_seconds or self.timing.beat)
        if "" in heard(self._waking, wait):
            # Not a job but the box itself is meant: someone drains it, or the server is ready again.
            self._next_beat = 0.0


def step(box: Box, started: Callable[[], None], give_up: Callable[[str], None]) -> type[bootsteps.StartStopStep]:
    """The Celery bootstep that starts the agent with the worker and shows the box on Flower's worker page.

    `started` is called in the main thread once Celery has made its own arrangements.
    """

    class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            started()
            Agent(box, give_up).start()

        def stop(self, worker: Any) -> None:
            # Whatever ended the worker: its threads must not wait for their runs, or it would never be gone.
            box.stopping.set()

        def info(self, worker: Any) -> dict[str, Any]:
            return box.info()

    return AgentStep
