"""The agent: the thread of a worker that wakes, measures, decides and claims. It sleeps on a subscription."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from celery import bootsteps

from pi0q.jobs.errors import Pi0qError
from pi0q.queue.refusals import Refusal
from pi0q.queue.store import heard
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.ended_jobs import EndedJobs
from pi0q.workers.agent.heartbeat import NameTaken

if TYPE_CHECKING:
    from redis.client import PubSub

logger = logging.getLogger(__name__)

#: Seconds between two warnings of an unreachable server.
WARN_SECONDS = 60.0
#: Share of a beat by which boxes that started together drift apart.
JITTER = 0.1
#: Words of the server that say more than that a job came: a run ended here, a user wants its post-run tasks done.
ROOM, POSTRUN = "room", "postrun"


class Agent(threading.Thread):
    """Claims for one box until it is stopped."""

    def __init__(self, box: Box, give_up: Callable[[str], None]) -> None:
        """`give_up` ends this worker for the reason that it is given."""
        super().__init__(name="agent", daemon=True)
        self.box, self.timing, self.give_up = box, box.context.settings.timing, give_up
        self.ended = EndedJobs(box.claims.admission.trust, box.context.store)
        self._subscription: PubSub | None = None
        self._next_beat = 0.0
        self._announced: tuple[Refusal | None, dict[str, list[Refusal]]] = (None, {})
        #: The last sleep ended because a job came, and for nothing else.
        self._called = False
        self._warned_at = -WARN_SECONDS

    def run(self) -> None:
        self.box.launcher.warm()
        started, stopping = False, self.box.context.stopping
        while not stopping.is_set():
            try:
                self._subscription = self._subscription or self._subscribe()
                self.beat()
                if not (started and self._called):
                    self.box.recover(at_start=not started)
                started = True
                self.poll()
                self.box.idle.look()
                self.sleep()
            except redis.RedisError as error:
                self._warn_unreachable(error)
                self.box.idle.unreachable()
                self._subscription = None
                stopping.wait(self.timing.retry)
            except NameTaken as error:
                self.give_up(str(error))
                return
            except Pi0qError as error:
                logger.error("%s", error)
                stopping.wait(self.timing.beat)
            except Exception:
                # A disk or driver that fails for a moment must not end the one thread that claims.
                logger.exception("can't claim jobs; retrying, running trainings go on")
                stopping.wait(self.timing.beat)

    def _subscribe(self) -> PubSub:
        """Listen to what concerns this box, and to what concerns all."""
        return self.box.context.store.subscribe(f"wake:{self.box.name}", "wake")

    def _warn_unreachable(self, error: redis.RedisError) -> None:
        """Warn of an unreachable server, but not at each of a night's many tries."""
        if time.monotonic() - self._warned_at >= WARN_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("can't reach the queue (%s); retrying, running trainings go on", error)

    def poll(self) -> None:
        """Claim what fits, and announce at once why other jobs are not taken."""
        self._warned_at = -WARN_SECONDS
        self.box.claims.check_trainer()
        self.box.claims.claim()
        self.box.stager.notice(self.box.claims.fetches)
        if self._refusals() != self._announced:
            self.announce()

    def announce(self) -> None:
        """Send a heartbeat now. Raises NameTaken."""
        self.box.announce()
        self._announced = self._refusals()
        self.box.claims.settle_inputs()

    def _refusals(self) -> tuple[Refusal | None, dict[str, list[Refusal]]]:
        return self.box.claims.blocked, self.box.claims.refusals

    def beat(self) -> None:
        """Send the heartbeat that is due and sweep the queue. Raises NameTaken."""
        if time.monotonic() >= self._next_beat:
            self.announce()
            self.box.context.store.sweep(every_seconds=self.timing.sweep)
            self.ended.learn()
            self._next_beat = time.monotonic() + self.timing.beat * random.uniform(1 - JITTER, 1)

    def sleep(self) -> None:
        """Wait until a job comes or room comes free, at most until the next heartbeat."""
        assert self._subscription is not None
        wait = min(self._next_beat - time.monotonic(), self.timing.beat)
        wait = min(wait, self.box.registration.claim_holdoff_seconds or wait)
        words = set(heard(self._subscription, 0.0 if self.box.claims.unfinished else max(0.0, wait)))
        if "" in words:
            # The message concerns the box itself: someone drains it, or the server is ready again.
            self._next_beat = 0.0
            self.box.idle.hurry()
        if words & {ROOM, POSTRUN}:
            self.box.context.postrun_due.set()
        if ROOM in words:
            self.box.claims.admission.peaks.forget()
        jobs = words - {"", ROOM, POSTRUN}
        self._called = jobs == words != set()
        self.box.claims.called = next(iter(jobs), "")


def step(box: Box, started: Callable[[], None], give_up: Callable[[str], None]) -> type[bootsteps.StartStopStep]:
    """Return the Celery bootstep that starts the agent with the worker and shows the box on Flower's worker page.

    `started` is called in the main thread once Celery has made its own arrangements.
    """

    class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            started()
            box.context.on_claim = box.runs.start
            Agent(box, give_up).start()

        def stop(self, worker: Any) -> None:
            # Whatever ended the worker: its threads must not wait for their runs, or it would never exit.
            box.context.stopping.set()

        def info(self, worker: Any) -> dict[str, Any]:
            return box.heartbeat.info()

    return AgentStep
