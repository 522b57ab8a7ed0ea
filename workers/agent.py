"""The agent: the thread of a worker that wakes, measures, judges and claims. It sleeps on a subscription."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import redis
from celery import bootsteps

from pi0q.jobs.errors import Pi0qError
from pi0q.queue.store import heard
from pi0q.workers import interpreter
from pi0q.workers.box import Box

if TYPE_CHECKING:
    from redis.client import PubSub

logger = logging.getLogger("pi0q")

#: Seconds between two looks without being woken: VRAM that someone else frees announces itself to no one.
SLOW_POLL_SECONDS = 10.0
#: Seconds before the server is asked again after it could not be reached.
RETRY_SECONDS = 2.0


class Agent(threading.Thread):
    """Claims for one box until it is stopped."""

    def __init__(self, box: Box) -> None:
        super().__init__(name="agent", daemon=True)
        self.box = box
        self._waking: PubSub | None = None
        self._next_beat = 0.0
        self._told: dict[str, str] = {}

    def run(self) -> None:
        self.box.launcher.warm()
        started = False
        while not self.box.stopping.is_set():
            try:
                self._waking = self._waking or self.box.store.subscribe("wake")
                self.beat()
                self.box.tend(at_start=not started)
                started = True
                self.poll()
                list(heard(self._waking, SLOW_POLL_SECONDS))
            except redis.RedisError as error:
                logger.warning(
                    "can't reach the queue (%s); running trainings go on, trying again in %.0f s",
                    error,
                    RETRY_SECONDS,
                )
                self._waking = None
                self.box.stopping.wait(RETRY_SECONDS)
            except Pi0qError as error:
                logger.error("%s", error)
                self.box.stopping.wait(SLOW_POLL_SECONDS)
            except Exception:
                # A disk or driver that fails for a moment must not end the one thread that claims.
                logger.exception("can't look for jobs; running trainings go on, trying again")
                self.box.stopping.wait(SLOW_POLL_SECONDS)

    def poll(self) -> None:
        """One round: claim what fits."""
        if isinstance(self.box.trainer, interpreter.NoTrainer):
            self.box.trainer = interpreter.find(self.box.settings)
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
            self.box.store.sweep()
            self._next_beat = time.monotonic() + SLOW_POLL_SECONDS


def step(box: Box) -> type[bootsteps.StartStopStep]:
    """The Celery bootstep that starts the agent with the worker and shows the box on Flower's worker page."""

    class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            Agent(box).start()

        def info(self, worker: Any) -> dict[str, Any]:
            return box.info()

    return AgentStep
