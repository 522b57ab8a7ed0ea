"""What a real worker answers to Celery's remote control."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pi0q.jobs.state import State
from pi0q.queue import celery_app, celery_message
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent import remote_control
from tests.conftest import PATIENCE, JobDriver, Running, Start, WaitFor

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
def test_a_waiting_job_is_cancelled_for_good(ask: Ask, driver: JobDriver, command: str) -> None:
    job = driver.submit()
    assert ask(command, task_id=job, signal="SIGTERM") == {"ok": f"{job} is cancelled"}
    assert driver.store.get(job).state is State.CANCELLED
    assert driver.store.waiting() == []
    assert ask("revoked") == []


def test_the_owner_of_a_running_job_is_asked_wherever_it_is(ask: Ask, driver: JobDriver) -> None:
    jobs = [driver.submit(), driver.submit()]
    epochs = [driver.run(job, "box-b") for job in jobs]
    assert ask("revoke", task_id=jobs, terminate=True, signal="SIGTERM")["ok"].count("is running") == 2
    assert [driver.report(*owned) for owned in zip(jobs, epochs, strict=True)] == ["cancel", "cancel"]
    assert ask("revoked") == []


def test_an_unknown_id_is_told_and_forgotten(ask: Ask) -> None:
    assert "There is no job xyz" in ask("revoke", task_id="xyz")["ok"]
    assert ask("revoked") == []


def test_refused_commands_change_nothing_and_say_why(ask: Ask) -> None:
    before = ask("stats")["pool"], ask("active_queues")
    given = {"queue": "box.box-a", "n": 1, "task_name": "pi0q.train", "rate_limit": "1/h", "max": 5, "soft": 1}
    for command, why in remote_control.INSTEAD.items():
        assert ask(command, **given) == {"error": f"Refused: {why}. Nothing was changed."}
        assert (ask("stats")["pool"], ask("active_queues")) == before


def test_every_command_that_is_not_on_the_list_is_refused(ask: Ask) -> None:
    from celery.worker.control import Panel

    listed = {*remote_control.ALLOWED, "revoke", "terminate", *remote_control.INSTEAD}
    for command in sorted({*Panel.data} - listed):
        assert ask(command) == {"error": "Refused: pi0q has no use for it. Nothing was changed."}
    assert "shutdown" not in remote_control.ALLOWED


def built(job: str, **changes: Any) -> str:
    """A message of pi0q with some parts of its envelope or headers replaced."""
    raw = json.loads(celery_message.build(job, name="x", needs={}, priority="normal", origin="ada@laptop"))
    headers = {**raw["headers"], **changes.pop("headers", {})}
    return json.dumps({**raw, "headers": headers, **changes})


JOB = "0123456789ab"
#: What a stolen box may push into a box's own queue: each of the first group ended the worker once.
HOSTILE: dict[str, str | bytes] = {
    "no JSON": "garbage",
    "a number": "1",
    "null": "null",
    "an empty object": "{}",
    "no properties": '{"body": "", "headers": {}}',
    "deep": "[" * 100_000,
    "bytes": b"\xff\xfe\x00\x80",
    "body not base64": built(JOB, body="%%%"),
    "pickle": built(JOB, body=base64.b64encode(pickle.dumps(([], {}, {}))).decode()),
    "pickle by its type": built(JOB, **{"content-type": "application/x-python-serialize"}),
    "compressed": built(JOB, headers={"compression": "application/x-gzip"}),
    "another task": built(JOB, headers={"task": "celery.accumulate"}),
    "a path for an id": built("../../outside"),
    "arguments": built(JOB, body=base64.b64encode(b"[[1], {}, {}]").decode()),
}


def test_hostile_messages_are_dropped_with_a_log_line_and_end_no_worker(
    ask: Ask, worker: Running, store: Store
) -> None:
    key = f"{store.prefix}{celery_message.box_key('box-a')}"
    for kind, message in HOSTILE.items():
        store.client.lpush(key, message)
        worker.until("dropped a message")
        assert store.client.llen(key) == 0, kind
    assert ask("ping") == {"ok": "pong"}
    assert "Traceback" not in worker.text
    assert not store.client.exists(f"{store.prefix}unacked")


def test_installed_twice_it_answers_as_once(driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker.control import Panel

    own = [{"name": "box.box-a", "routing_key": "box.box-a", "durable": True}]
    monkeypatch.setattr(Panel, "data", Panel.data | {"active_queues": lambda state: own})
    remote_control.install(driver.store)
    remote_control.install(driver.store)
    assert [queue["name"] for queue in Panel.data["active_queues"](None)] == ["box.box-a", "jobs"]
