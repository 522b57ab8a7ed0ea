"""Fair share between users: the places of their jobs in the queue, and the cards that each of them has."""

from __future__ import annotations

from pi0q.queue.reservation import pressed_json
from pi0q.queue.store import Store
from tests.conftest import JobDriver


def share_fairly(store: Store, *, on: bool = True) -> None:
    """Some box plans with this setting."""
    assert store.reserve(store.plan(), [], pressed_json(frozenset(), 60.0, {} if on else None))


def by(driver: JobDriver, user: str, count: int, *, gpus: int = 1) -> list[str]:
    needs = {"gpus": gpus, "vram_mib": 30_000, "disk_mib": 1}
    return [driver.submit(submitter=user, needs=needs) for _ in range(count)]


def order(store: Store) -> list[str]:
    return [job.id for job in store.waiting()]


def test_a_newcomer_waits_for_no_flood(store: Store, driver: JobDriver) -> None:
    share_fairly(store)
    a, b = by(driver, "a", 4), by(driver, "b", 2)
    assert order(store) == [a[0], b[0], a[1], b[1], a[2], a[3]]


def test_a_job_of_several_cards_counts_as_several(store: Store, driver: JobDriver) -> None:
    share_fairly(store)
    a, b = by(driver, "a", 2, gpus=2), by(driver, "b", 3)
    assert order(store) == [a[0], b[0], b[1], a[1], b[2]]


def test_nobody_saves_up_for_later(store: Store, driver: JobDriver) -> None:
    """Who had no jobs while others were served begins beside them."""
    share_fairly(store)
    a = by(driver, "a", 6)
    for job in a[:3]:
        driver.claim(job)
    b = by(driver, "b", 2)
    assert order(store) == [a[3], b[0], a[4], b[1], a[5]]


def test_cancelled_jobs_cost_nothing(store: Store, driver: JobDriver) -> None:
    share_fairly(store)
    gone, b = by(driver, "a", 3), by(driver, "b", 2)
    for job in gone:
        store.cancel(job, text="changed my mind")
    (again,) = by(driver, "a", 1)
    assert order(store) == [b[0], again, b[1]]


def test_an_interrupted_job_is_next_again(store: Store, driver: JobDriver) -> None:
    share_fairly(store)
    a = by(driver, "a", 2)
    driver.run(a[0])
    driver.let_lease_run_out(a[0])
    store.sweep()
    assert order(store)[0] == a[0]


def test_without_it_and_once_it_ends_jobs_stand_as_submitted(store: Store, driver: JobDriver) -> None:
    before = by(driver, "a", 2) + by(driver, "b", 1)
    share_fairly(store)
    assert store.plan().fair
    a, b = by(driver, "a", 2), by(driver, "b", 1)
    share_fairly(store, on=False)
    assert not store.plan().fair
    after = by(driver, "a", 2) + by(driver, "b", 1)
    assert order(store) == [*before, a[0], b[0], a[1], *after]
