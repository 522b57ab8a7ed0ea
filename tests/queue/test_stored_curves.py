"""A job's curve on the server: replaced from its end by the owner alone."""

from __future__ import annotations

import pytest

from pi0q.jobs import curve
from pi0q.jobs.curve import MOST_POINTS, Point
from pi0q.jobs.errors import NotFound
from pi0q.queue import stored_curves
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.reading import details
from pi0q.queue.store import Store
from tests.conftest import JobDriver

LINES = curve.write([Point(step, step / 8, 1e-4, 0.5) for step in range(1, 6)])


def test_owner_replaces_the_end(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    assert store.put_curve(job, epoch, box="box-a", stay=0, points=LINES) == 5
    assert store.put_curve(job, epoch, box="box-a", stay=3, points=["[9,1,1,1]"]) == 4
    assert [one.step for one in stored_curves.read(store, job)] == [1, 2, 3, 9]


def test_server_that_knows_less_says_so_and_keeps_what_it_has(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    store.put_curve(job, epoch, box="box-a", stay=0, points=LINES)
    assert store.put_curve(job, epoch, box="box-a", stay=7, points=["[9,1,1,1]"]) == 5
    assert stored_curves.lines(store, job) == LINES


def test_only_the_owner_writes(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    with pytest.raises(OwnershipLost):
        store.put_curve(job, epoch - 1, box="box-a", stay=0, points=LINES)
    with pytest.raises(OwnershipLost):
        store.put_curve(job, epoch, box="box-b", stay=0, points=LINES)
    with pytest.raises(StaleServer):
        store.put_curve(job, epoch + 1, box="box-a", stay=0, points=LINES)
    assert stored_curves.read(store, job) == ()


def test_curve_on_the_server_is_bounded(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    many = [f"[{step},0.123456,1.23457e-05,0.654321]" for step in range(3 * MOST_POINTS)]
    assert store.put_curve(job, driver.run(job), box="box-a", stay=0, points=many) == MOST_POINTS
    assert int(store.client.memory_usage(f"{store.prefix}curve:{job}", samples=0) or 0) <= 64 * 1024


def test_curve_goes_with_its_record(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    store.put_curve(job, driver.run(job), box="box-a", stay=0, points=LINES)
    store.client.hset(f"{store.prefix}job:{job}", "step", "damaged")
    store.client.zrem(f"{store.prefix}leases", job)
    assert store.discard(job, text="removed")
    assert not store.client.exists(f"{store.prefix}curve:{job}")


def test_losses_are_a_few_of_each_curve(driver: JobDriver, store: Store) -> None:
    job, none, odd = driver.submit(), driver.submit(), driver.submit()
    store.put_curve(job, driver.run(job), box="box-a", stay=0, points=LINES)
    store.client.set(f"{store.prefix}curve:{odd}", "no list")
    found = stored_curves.losses(store, [job, none, odd], 3)
    assert found == {job: (0.125, 0.375, 0.625), none: (), odd: ()}
    assert stored_curves.losses(store, [], 3) == {}


def test_details_of_a_job_hold_history_checkpoints_curve_and_log(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    saved = {"step": 20, "path": "/data/runs/x/000020", "manifest": "a" * 64, "bytes": 1000}
    driver.report(job, epoch, log="step 20\x1b[2J\n", step=20, checkpoint=saved, verified={"10": "b" * 64})
    store.put_curve(job, epoch, box="box-a", stay=0, points=LINES)
    found = details.read(store, job, 60.0)
    assert [event.state.value for event in found.history] == ["queued", "claimed", "preparing", "running"]
    assert [one.step for one in found.checkpoints] == [20, 10] and found.checkpoints[0].saved_ms
    assert [one.step for one in found.curve] == [1, 2, 3, 4, 5]
    assert found.log == "step 20\\x1b[2J\n" and found.log_bytes == 12 and found.run_dir
    with pytest.raises(NotFound):
        details.read(store, "0123456789ab", 60.0)
