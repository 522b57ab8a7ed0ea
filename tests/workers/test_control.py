"""What a real worker answers to Celery's remote control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pi0q.jobs.state import State
from pi0q.queue import app as celery_app
from pi0q.queue.settings import Settings
from pi0q.workers import control

from ..conftest import PATIENCE, Hands, Running, Start, WaitFor

Ask = Callable[..., Any]


@pytest.fixture
def worker(start: Start) -> Running:
    """A box without LeRobot: it takes no job, and answers."""
    running = start("worker", "--name", "box-a", PI0Q_TRAINER_PYTHON="/bin/false")
    running.until("ready.")
    return running


@pytest.fixture
def app(chosen: Settings) -> Iterator[Any]:
    """Celery's client, as Flower and the `celery` command use it."""
    made = celery_app.make(chosen)
    yield made
    made.close()


@pytest.fixture
def ask(worker: Running, app: Any, wait_for: WaitFor) -> Ask:
    """Sends a command to the box; its answer."""
    # Celery says that it is ready before it listens to its remote control.
    wait_for(lambda: app.control.ping(timeout=1.0))

    def ask(command: str, **arguments: Any) -> Any:
        answers = app.control.broadcast(command, arguments=arguments, reply=True, timeout=PATIENCE, limit=1)
        return answers[0]["pi0q@box-a"]

    return ask


def test_the_queue_that_no_one_consumes_is_named(ask: Ask) -> None:
    assert [queue["name"] for queue in ask("active_queues")] == ["box.box-a", "jobs"]


@pytest.mark.parametrize("command", ["revoke", "terminate"])
def test_a_waiting_job_is_cancelled_for_good(ask: Ask, hands: Hands, command: str) -> None:
    job = hands.submit()
    assert ask(command, task_id=job, signal="SIGTERM") == {"ok": f"{job} is cancelled"}
    assert hands.store.get(job).state is State.CANCELLED
    assert hands.store.waiting() == []
    assert ask("revoked") == []


def test_the_owner_of_a_running_job_is_asked_wherever_it_is(ask: Ask, hands: Hands) -> None:
    jobs = [hands.submit(), hands.submit()]
    epochs = [hands.run(job, "box-b") for job in jobs]
    assert ask("revoke", task_id=jobs, terminate=True, signal="SIGTERM")["ok"].count("is running") == 2
    assert [hands.report(*owned) for owned in zip(jobs, epochs, strict=True)] == ["cancel", "cancel"]
    assert ask("revoked") == []


def test_an_unknown_id_is_told_and_forgotten(ask: Ask) -> None:
    assert "There is no job xyz" in ask("revoke", task_id="xyz")["ok"]
    assert ask("revoked") == []


def test_what_makes_no_sense_is_refused_with_a_reason(ask: Ask) -> None:
    before = ask("stats")["pool"], ask("active_queues")
    given = {"queue": "box.box-a", "n": 1, "task_name": "pi0q.train", "rate_limit": "1/h", "max": 5, "soft": 1}
    for command, why in control.REFUSED.items():
        assert ask(command, **given) == {"error": f"pi0q leaves this alone: {why}."}
        assert (ask("stats")["pool"], ask("active_queues")) == before


def test_installed_twice_it_answers_as_once(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker.control import Panel

    own = [{"name": "box.box-a", "routing_key": "box.box-a", "durable": True}]
    monkeypatch.setattr(Panel, "data", Panel.data | {"active_queues": lambda state: own})
    control.install(hands.store)
    control.install(hands.store)
    assert [queue["name"] for queue in Panel.data["active_queues"](None)] == ["box.box-a", "jobs"]
