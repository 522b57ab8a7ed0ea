"""What `submit` writes, held against what Celery itself publishes and what kombu makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pi0q.queue import celery_app as apps
from pi0q.queue import celery_message
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import JobDriver

NEEDS = {"gpus": 1, "vram_mib": 92160, "disk_mib": 122880}


@pytest.fixture
def celerys(store: Store, chosen: Settings) -> dict[str, Any]:
    """The message that a real Celery app puts into the queue for the same task."""
    app = apps.make(chosen)

    @app.task(name=celery_message.TASK)  # type: ignore[untyped-decorator]
    def train() -> None: ...

    with app.connection_for_write() as connection:
        train.apply_async(task_id="a1b2c3", priority=celery_message.STEPS["high"], connection=connection)
    app.close()
    (raw,) = store.client.lrange(store.prefix + celery_message.queue_key(celery_message.STEPS["high"]), 0, -1)
    parsed: dict[str, Any] = json.loads(raw)
    return parsed


@pytest.fixture
def ours() -> dict[str, Any]:
    built = celery_message.build("a1b2c3", name="grab_box", needs=NEEDS, priority="high", origin="ada@laptop")
    parsed: dict[str, Any] = json.loads(built)
    return parsed


def test_the_envelope_is_celerys(ours: dict[str, Any], celerys: dict[str, Any]) -> None:
    assert ours.keys() == celerys.keys()
    assert {key: ours[key] for key in ("content-type", "content-encoding", "body")} == {
        key: celerys[key] for key in ("content-type", "content-encoding", "body")
    }


def test_the_headers_are_celerys_and_one_of_ours(ours: dict[str, Any], celerys: dict[str, Any]) -> None:
    assert ours["headers"].keys() - celerys["headers"].keys() == {"pi0q"}
    assert celerys["headers"].keys() - ours["headers"].keys() == set()
    described = {"argsrepr", "kwargsrepr", "origin", "ignore_result", "pi0q"}
    same = ours["headers"].keys() - described
    assert {key: ours["headers"][key] for key in same} == {key: celerys["headers"][key] for key in same}
    assert {type(ours["headers"][key]) for key in ("argsrepr", "kwargsrepr", "origin")} == {str}


def test_the_properties_are_celerys(ours: dict[str, Any], celerys: dict[str, Any]) -> None:
    for written in (ours, celerys):
        # Any name does, as long as no other message has it.
        assert written["properties"].pop("delivery_tag")
        # Where a result would go; a job's lies in its record.
        written["properties"].pop("reply_to")
    assert ours["properties"] == celerys["properties"]


@pytest.mark.parametrize("priority", celery_message.STEPS)
def test_each_priority_waits_where_celery_would_put_it(
    priority: str, driver: JobDriver, store: Store, chosen: Settings
) -> None:
    job = driver.submit(priority=priority)
    app = apps.make(chosen)
    with app.connection_for_read() as connection, connection.SimpleQueue(celery_message.QUEUE) as queue:
        channel = connection.default_channel
        # kombu puts the prefix before a key only as it sends it.
        key = store.prefix + channel._q_for_pri(celery_message.QUEUE, celery_message.STEPS[priority])
        assert store.client.llen(key) == 1
        got = queue.get(block=False)
        assert got.headers["id"] == got.properties["correlation_id"] == job
        assert got.payload == [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        got.ack()
    app.close()


def test_kombu_takes_the_most_urgent_and_of_these_the_oldest(driver: JobDriver, chosen: Settings) -> None:
    low, first, second, urgent = (
        driver.submit(priority=priority) for priority in ("low", "normal", "normal", "urgent")
    )
    app = apps.make(chosen)
    taken = []
    with app.connection_for_read() as connection, connection.SimpleQueue(celery_message.QUEUE) as queue:
        for _ in range(4):
            got = queue.get(block=False)
            taken.append(got.headers["id"])
            got.ack()
    app.close()
    assert taken == [urgent, first, second, low]


def test_who_reads_the_queue_sees_name_and_needs(ours: dict[str, Any]) -> None:
    assert ours["headers"]["pi0q"] == {"name": "grab_box", **NEEDS}
    assert ours["headers"]["argsrepr"] == "('grab_box',)"


def test_a_name_of_any_letters_survives() -> None:
    built = celery_message.build("a1a1a1a1a1a1", name="抓盒子 №1 'x'", needs=NEEDS, priority="low", origin="ada@laptop")
    assert json.loads(built)["headers"]["pi0q"]["name"] == "抓盒子 №1 'x'"


def test_the_id_in_a_message_is_found_and_a_strangers_is_passed_over() -> None:
    built = celery_message.build("a1a1a1a1a1a1", name="n", needs=NEEDS, priority="low", origin="ada@laptop")
    assert celery_message.job_of(built) == "a1a1a1a1a1a1"
    for strange in ("", "no json", "[]", "7", "null", "{}", '{"headers": {}}', '{"headers": null}'):
        assert celery_message.job_of(strange) is None
