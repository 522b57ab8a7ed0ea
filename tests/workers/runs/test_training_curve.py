"""The curve of a running training: joined over runs, sent in small parts, never in the way of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from pi0q.jobs import curve, transition
from pi0q.jobs.curve import Point
from pi0q.jobs.outcome import Reason
from pi0q.queue import stored_curves
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.ownership import Ownership, take
from pi0q.workers.runs.training_curve import SEND_SECONDS, TrainingCurve
from tests.conftest import JobDriver


def step(number: int, at: float, loss: Any = 0.5, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "t": at, "loss": loss, "lr": 1e-4, **more}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def owner(store: Store, driver: JobDriver, job: str, place: Path) -> Ownership:
    """The runner of a new claim of this job."""
    epoch = driver.claim(job)
    claimant = Claimant(box="box-a", boot="1", lease_seconds=600.0)
    ledger, since = take(store, *store.get_with_raw(job), claimant=claimant, claim=epoch, run_dir=place)
    lease = Lease(place / "lease", seconds=600.0, fence=480.0, since=since)
    made = Ownership(store, ledger, place / "ledger.json", lease)
    assert made.move(transition.running(epoch, text="lives", started_ms=1))
    return made


def steps_of(store: Store, job: str) -> list[int]:
    return [point.step for point in stored_curves.read(store, job)]


def test_step_time_is_measured_between_steps_alone() -> None:
    told = TrainingCurve()
    for event in (
        step(1, 10.0),
        step(2, 10.5),
        {"event": "saving", "step": 2, "t": 10.6},
        step(3, 99.0),
        step(5, 100.0),
    ):
        told.on_event(event)
    assert [point.seconds for point in told._curve.points] == [None, 0.5, None, 0.5]


@pytest.mark.parametrize(
    "event",
    [{"event": "step"}, step(-1, 1.0), step(3, 1.0, loss=None), {"event": "step", "step": "x", "t": 1, "loss": 1},
     {"event": "step", "step": 1e400, "t": 1, "loss": 1}, {"event": "step", "step": 4, "t": None, "loss": 1}],
)  # fmt: skip
def test_event_without_numbers_is_passed_over(event: dict[str, Any]) -> None:
    told = TrainingCurve()
    told.on_event(event)
    assert told._curve.points == ()


def test_curve_is_sent_once_in_a_while_and_at_the_end(
    store: Store, driver: JobDriver, clock: Clock, tmp_path: Path
) -> None:
    job, told = driver.submit(), TrainingCurve(clock=clock)
    held = owner(store, driver, job, tmp_path)
    told.on_event(step(1, 1.0))
    told.send(held)
    told.on_event(step(2, 2.0))
    told.send(held)
    assert steps_of(store, job) == [1]
    clock.now += SEND_SECONDS
    told.send(held)
    assert steps_of(store, job) == [1, 2]
    told.on_event(step(3, 3.0, loss=float("inf")))
    told.send(held, over=True)
    assert steps_of(store, job) == [1, 2, 3] and stored_curves.read(store, job)[-1].loss is None


def test_only_the_end_of_a_long_curve_is_sent(
    store: Store, driver: JobDriver, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, told = driver.submit(), TrainingCurve(clock=clock)
    held, sent = owner(store, driver, job, tmp_path), list[int]()
    put = held.put_curve

    def counted(stay: int, points: Any) -> int:
        sent.append(len(points))
        return put(stay, points)

    monkeypatch.setattr(held, "put_curve", counted)
    for number in range(1, 901):
        told.on_event(step(number, float(number)))
        if number % 300 == 0:
            told.send(held, over=True)
    told.on_event(step(901, 901.0))
    told.send(held, over=True)
    assert sent == [300, 300, 300, 1]


def test_next_run_goes_on_with_the_curve_from_its_step(
    store: Store, driver: JobDriver, clock: Clock, tmp_path: Path
) -> None:
    job, told = driver.submit(), TrainingCurve(clock=clock)
    first = owner(store, driver, job, tmp_path)
    for number in range(1, 9):
        told.on_event(step(number, float(number), loss=1.0))
    told.send(first)
    assert first.move(transition.ended(store.get(job), first.ledger.epoch, Reason.STOPPED_BY_BOX, "stopped"))
    again, second = TrainingCurve(clock=clock), owner(store, driver, job, tmp_path)
    again.on_event(step(6, 60.0, loss=2.0))
    again.send(second)
    assert [(point.step, point.loss) for point in stored_curves.read(store, job)] == [
        *((number, 1.0) for number in range(1, 6)), (6, 2.0)
    ]  # fmt: skip


def test_job_that_continues_another_begins_with_its_curve(
    store: Store, driver: JobDriver, clock: Clock, tmp_path: Path
) -> None:
    before = driver.submit()
    store.put_curve(before, driver.run(before), box="box-a", stay=0, points=curve.write([Point(1, 4.0), Point(2, 3.0)]))
    job, told = driver.submit(continues=before), TrainingCurve(clock=clock)
    told.on_event(step(2, 1.0, loss=2.0))
    told.send(owner(store, driver, job, tmp_path))
    assert [(point.step, point.loss) for point in stored_curves.read(store, job)] == [(1, 4.0), (2, 2.0)]


def test_server_that_lost_the_curve_gets_it_whole(
    store: Store, driver: JobDriver, clock: Clock, tmp_path: Path
) -> None:
    job, told = driver.submit(), TrainingCurve(clock=clock)
    held = owner(store, driver, job, tmp_path)
    for number in range(1, 5):
        told.on_event(step(number, float(number)))
        told.send(held, over=True)
    store.client.delete(f"{store.prefix}curve:{job}")
    told.on_event(step(5, 5.0))
    told.send(held, over=True)
    told.send(held, over=True)
    assert steps_of(store, job) == [1, 2, 3, 4, 5]


def test_server_that_is_away_costs_nothing_but_the_send(
    store: Store, driver: JobDriver, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, told = driver.submit(), TrainingCurve(clock=clock)
    held = owner(store, driver, job, tmp_path)
    told.on_event(step(1, 1.0))

    def away(*_: object, **__: object) -> int:
        raise redis.ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_curve", away)
        told.send(held, over=True)
    told.send(held, over=True)
    assert steps_of(store, job) == [1]
