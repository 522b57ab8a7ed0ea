"""What Flower's feeder reads, without Flower: its state is Celery's own, its loop runs at once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.events.state import State

from pi0q.ops.flower.feeder import Feeder
from pi0q.queue.store import Store
from tests.conftest import JobDriver


class FakeSearch:
    def upsert(self, task: Any) -> None:
        pass


class FakeLoop:
    def add_callback(self, act: Callable[..., None], *args: Any) -> None:
        act(*args)


@pytest.fixture
def feeder(store: Store) -> Feeder:
    state = State()
    state.search_engine = FakeSearch()
    web = SimpleNamespace(events=SimpleNamespace(state=state), io_loop=FakeLoop())
    return Feeder(store, cast(Any, web))


def test_a_refresh_reads_only_what_changed(feeder: Feeder, driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, read = [driver.submit() for _ in range(5)], list[list[str]]()
    listed = feeder.store.listed

    def noted(ids: list[str]) -> Any:
        read.append(list(ids))
        return listed(ids)

    monkeypatch.setattr(feeder.store, "listed", noted)
    feeder._publish_soon(feeder._changed())
    driver.run(jobs[1])
    late = driver.submit()
    feeder._publish_soon(feeder._changed())
    feeder._publish_soon(feeder._changed())
    # What Flower forgot, since it keeps no more tasks, is read again.
    feeder.web.events.state.tasks.pop(jobs[3])
    feeder._publish_soon(feeder._changed())
    assert read == [jobs, [jobs[1], late], [], [jobs[3]]]
    assert feeder.web.events.state.tasks[jobs[1]].state == "STARTED"


def test_a_damaged_record_hides_no_other_job(feeder: Feeder, driver: JobDriver) -> None:
    healthy, damaged, changed = driver.submit(), driver.submit(), driver.submit()
    key = f"{feeder.store.prefix}job:{damaged}"
    feeder.store.client.hset(key, mapping={"created_ms": "nan", "needs": "[]", "state": "bogus"})

    feeder._publish_soon(feeder._changed())
    driver.run(changed)
    feeder._publish_soon(feeder._records([damaged, changed]))

    shown = feeder.web.events.state.tasks
    assert (healthy in shown, damaged in shown) == (True, False)
    assert shown[changed].state == "STARTED"


def test_a_waiting_job_says_why_it_waits(feeder: Feeder, driver: JobDriver) -> None:
    first, second = driver.submit(), driver.submit()
    feeder._publish_soon(feeder._changed())
    feeder._publish_soon(feeder._waiting())
    shown = feeder.web.events.state.tasks
    assert shown[first].result.startswith("no box is up · ")
    assert feeder.store.announce_box("box-a", "id-a", {"status": "ready", "slots": 1, "running": 1, "used_slots": 1})
    feeder._publish_soon(feeder._waiting())
    assert shown[first].result.startswith("next") and shown[second].result.startswith("1 before it")
    # Nothing is said twice, and nothing of it is left once the job runs.
    assert feeder._waiting() == []
    driver.run(first)
    feeder._publish_soon(feeder._changed())
    assert "next" not in shown[first].result
