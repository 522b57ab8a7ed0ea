"""Commands that follow a job go on after a lost link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from pi0q.jobs.errors import NotFound
from pi0q.jobs.outcome import Reason
from pi0q.jobs.transition import ended
from pi0q.queue import following
from pi0q.queue.following import Follower
from pi0q.queue.store import Store
from tests.conftest import JobDriver, Start
from tests.rig.server import Server

PREFIX = "t1:"


@dataclass
class Link:
    """A question whose answers are set in advance, and a clock that only sleeping moves."""

    answers: list[str | Exception]
    now: float = 0.0
    told: list[tuple[str, float]] = field(default_factory=list)

    def ask(self) -> str:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def said(self, what: str) -> Callable[[float], None]:
        return lambda seconds: self.told.append((what, seconds))

    def follower(self, store: Store) -> Follower:
        return Follower(store, self.said("away"), self.said("back"), clock=lambda: self.now, sleep=self.sleep)


def test_follower_asks_again_until_the_server_answers(store: Store) -> None:
    lost = redis.ConnectionError("no")
    link = Link(["one", lost, redis.TimeoutError("no"), lost, "two"])
    follower = link.follower(store)
    assert (follower.look(link.ask), follower.look(link.ask)) == ("one", "two")
    assert link.told == [("away", 0.0), ("away", 1.0), ("away", 2.0), ("back", 3.0)]


@pytest.mark.parametrize("error", [redis.ConnectionError("no"), redis.TimeoutError("no"), NotFound("no such job")])
def test_first_question_of_a_follower_fails_as_in_any_command(store: Store, error: Exception) -> None:
    link = Link([error])
    with pytest.raises(type(error)):
        link.follower(store).look(link.ask)


def test_follower_raises_errors_that_do_not_pass(store: Store) -> None:
    for error in (redis.AuthenticationError("no"), redis.ResponseError("no"), NotFound("no such job")):
        link = Link(["one", error])
        follower = link.follower(store)
        follower.look(link.ask)
        with pytest.raises(type(error)):
            follower.look(link.ask)


def test_follower_waits_for_a_job_that_boxes_restore_after_a_lost_link(store: Store) -> None:
    lost, unknown = redis.ConnectionError("no"), NotFound("no such job")
    link = Link(["one", lost, unknown, unknown, "two"])
    follower = link.follower(store)
    assert (follower.look(link.ask), follower.look(link.ask)) == ("one", "two")
    link.answers = [unknown] * (2 + int(following.RESTORE_SECONDS))
    with pytest.raises(NotFound):
        follower.look(link.ask)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    server = Server.start(tmp_path / "server")
    yield server
    server.stop()


@pytest.mark.parametrize("command", [("watch",), ("logs", "-f"), ("watch", "--json")], ids=" ".join)
def test_command_goes_on_after_the_server_was_killed(
    command: tuple[str, ...], start: Start, own_server: Server
) -> None:
    def connected() -> Store:
        return Store(redis.Redis.from_url(own_server.url, decode_responses=True), PREFIX)

    store = connected()
    driver = JobDriver(store)
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, step=10_000, log="step 1\n", phase="")
    verb, *options = command
    command_line = start(verb, *options, job, PI0Q_REDIS_URL=own_server.url, PI0Q_PREFIX=PREFIX)
    command_line.until("step 1" if verb == "logs" else "running")
    own_server.kill()
    command_line.until("does not answer; trying again")
    own_server.restart()
    command_line.until("answers again after")
    driver.report(job, epoch, step=20_000, log="step 2\n", phase="")
    assert store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "done"))
    assert command_line.end() == 0
    assert ("step 2" if verb == "logs" else "succeeded") in command_line.text
