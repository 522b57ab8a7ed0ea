"""An expired lease is counted in two places: by sweep.lua on the server and by transition.ended in Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.outcome import MAX_RUNS_WITHOUT_CHECKPOINT, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from pi0q.jobs.transition import ended, preparing, running
from pi0q.queue.schedule_view import rank_at, rank_of
from pi0q.queue.store import Store

from ..conftest import JobDriver

SAVED = {"step": 7, "path": "/data/runs/a/output/checkpoints/000007", "manifest": "ab" * 32, "bytes": 1}
LAST = MAX_RUNS_WITHOUT_CHECKPOINT - 1
CASES: list[tuple[State, dict[str, Any]]] = [
    (state, {"attempt": attempt, "fruitless": runs, **more})
    for state in (State.CLAIMED, State.PREPARING, State.RUNNING)
    for attempt, runs, more in (
        (0, 0, {}),
        (1, 0, {"checkpoint": SAVED}),
        (3, 2, {"rest_seconds": 960.0, "evidence": {"reason": "network", "same": "x"}}),
        (2, LAST - 1, {}),
        (2, LAST, {"evidence": {"reason": "hung"}}),
        (1, LAST + 1, {"checkpoint": SAVED}),
        (1, LAST, {"wish": "cancel"}),
        (1, 0, {"held": "held by ada"}),
    )
]


def bring_to(driver: JobDriver, store: Store, state: State, fields: dict[str, Any]) -> tuple[str, int]:
    """A job in this state with these fields of its record; its id and epoch."""
    job = driver.submit(**{name: value for name, value in fields.items() if name != "attempt"})
    epoch = driver.claim(job)
    store.client.hset(store.prefix + f"job:{job}", "attempt", fields["attempt"])
    if state is not State.CLAIMED:
        assert store.move(job, preparing(epoch, attempt=fields["attempt"], run_dir="/data/runs/a"))
    if state is State.RUNNING:
        assert store.move(job, running(epoch, text="", started_ms=None))
    return job, epoch


def without_times(job: Record) -> Record:
    return replace(job, id="", created_ms=0, updated_ms=0, queued_ms=0, ended_ms=None, spec={}, history=())


@pytest.mark.parametrize(("state", "fields"), CASES)
def test_sweep_counts_an_interruption_as_ended_does(
    state: State, fields: dict[str, Any], driver: JobDriver, store: Store
) -> None:
    by_box, epoch = bring_to(driver, store, state, fields)
    by_sweep, _ = bring_to(driver, store, state, fields)
    record = store.get(by_box)
    text = "box-a was not heard of for the length of a lease"
    last = ended(record, epoch, Reason.LEASE_EXPIRED, text)
    # A wish to cancel wins over a crash loop: the runner's own end says so (runner/finish.py), the sweep by itself.
    if record.wish == "cancel" and last.to is State.FAILED:
        last = ended(replace(record, runs_without_checkpoint=0), epoch, Reason.LEASE_EXPIRED, text)
        last = replace(last, fields={**last.fields, "fruitless": record.runs_without_checkpoint + 1})
    assert store.move(by_box, last, box="box-a")
    driver.let_lease_run_out(by_sweep)
    assert store.sweep(every_seconds=0.001) == [by_sweep]
    assert without_times(store.get(by_sweep)) == without_times(store.get(by_box))
    left = [store.get(job).history[-1] for job in (by_sweep, by_box)]
    assert [(one.state, one.reason, one.text) for one in left[:1]] == [
        (one.state, one.reason, one.text) for one in left[1:]
    ]


def test_a_site_that_went_away_comes_back_in_steps_a_second_apart(driver: JobDriver, store: Store) -> None:
    jobs = [driver.submit() for _ in range(20)]
    for job in jobs:
        driver.run(job)
        driver.let_lease_run_out(job)
    first = store.sweep(every_seconds=30.0)
    assert 0 < len(first) < len(jobs)
    assert 0 < int(store.client.pttl(store.prefix + "swept")) <= 1000, "the next step does not wait for 30 seconds"
    store.client.delete(store.prefix + "swept")
    assert sorted(first + store.sweep(every_seconds=30.0)) == sorted(jobs)
    assert int(store.client.pttl(store.prefix + "swept")) > 1000


def test_a_job_that_waits_for_days_comes_before_later_ones_of_higher_priority(driver: JobDriver, store: Store) -> None:
    """One priority a day, and never as urgent; it is told to boxes that have judged it, and keeps its own priority."""
    day = 24 * 3600 * 1000
    urgent, high = driver.submit(priority="urgent"), driver.submit(priority="high")
    ages = {driver.submit(priority="low"): age for age in (0.9, 1.1, 9)}
    normal = driver.submit()
    for job, age in ages.items():
        store.client.hset(f"{store.prefix}job:{job}", "queued_ms", store.now_ms() - int(age * day))
    fresh, a_day, for_long = ages

    assert store.sweep() == []

    assert [job.id for job in store.waiting()] == [urgent, high, for_long, a_day, normal, fresh]
    for waiting in store.waiting():
        places = [store.client.zscore(one, waiting.id) for one in store.client.scan_iter(f"{store.prefix}class:*")]
        (place,) = filter(None, places)
        assert rank_of(place) == rank_at(waiting, store.now_ms())
    store.record_preflight(for_long, "box-a", {"ok": True, "vram_mib": 1})
    assert [job.id for job in store.waiting()][2] == for_long, "it keeps its place when its needs are known better"
