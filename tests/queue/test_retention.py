"""How long records of ended jobs are kept, and what keeps one longer."""

from __future__ import annotations

import pytest

from pi0q.jobs.state import State
from pi0q.queue.retention import Retention
from pi0q.queue.store import PRUNED_AT_ONCE, Store
from tests.conftest import Command, JobDriver

NONE = Retention(days=None, jobs=0)


def cancelled(driver: JobDriver, store: Store, count: int) -> list[str]:
    """Submit and cancel jobs; their ids, oldest end first."""
    jobs = [driver.submit(f"job{number}") for number in range(count)]
    for job in jobs:
        assert store.cancel(job, text="cancelled by ada") is State.CANCELLED
        # Ends of one millisecond have no order of their own.
        ended = store.get(job).ended_ms or 0
        while store.now_ms() <= ended:
            pass
    return jobs


def ids(store: Store) -> set[str]:
    return {job.id for job in store.page(live=-1, ended=-1).jobs}


def keys_of(store: Store, job: str) -> list[str]:
    return [str(key) for key in store.client.scan_iter(f"{store.prefix}*{job}*")]


@pytest.mark.parametrize(
    ("text", "days", "jobs"),
    [("90d", 90, None), ("1 day", 1, None), ("500 jobs", None, 500), ("90d,10000 jobs", 90, 10_000),
     ("forever", None, None), ("off", None, None), ("0 jobs", None, 0)],
)  # fmt: skip
def test_retention_parses_days_jobs_or_both(text: str, days: int | None, jobs: int | None) -> None:
    assert Retention.parse(text) == Retention(days=days, jobs=jobs)


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "90 weeks", "90d;5 jobs", "1e9 jobs", "9999999999d"])
def test_retention_refuses_other_texts_with_the_right_form(text: str) -> None:
    with pytest.raises(ValueError, match="must look like 90d"):
        Retention.parse(text)


def test_prune_removes_the_oldest_ended_jobs_beyond_the_count(driver: JobDriver, store: Store) -> None:
    old, middle, new = cancelled(driver, store, 3)
    waiting = driver.submit("waits")
    assert store.prune(Retention(days=None, jobs=1)) == [old, middle]
    assert ids(store) == {new, waiting}
    assert not keys_of(store, old)
    assert "job0" not in str(store.client.zrange(store.prefix + "lookup", 0, -1))


def test_prune_removes_jobs_that_ended_before_the_days(driver: JobDriver, store: Store) -> None:
    old, new = cancelled(driver, store, 2)
    store.client.zadd(store.prefix + "ended", {old: store.now_ms() - 91 * 86_400_000})
    assert store.prune(Retention(days=90, jobs=None)) == [old]
    assert ids(store) == {new}


def test_prune_without_limits_removes_nothing(driver: JobDriver, store: Store) -> None:
    jobs = cancelled(driver, store, 2)
    assert store.prune(Retention(days=None, jobs=None)) == []
    assert ids(store) == set(jobs)


def test_prune_keeps_pinned_pending_and_continued_jobs(driver: JobDriver, store: Store) -> None:
    pinned, pushing, syncing, before, plain = cancelled(driver, store, 5)
    job = store.prefix + "job:"
    store.client.hset(job + pinned, "kept_steps", "[20]")
    store.client.hset(job + pushing, "push", '{"state": "pending"}')
    store.client.hset(job + syncing, "wandb_sync", '{"box-a": {"state": "failed", "mb": 3.1}}')
    continuing = driver.submit("continuing")
    store.client.hset(job + before, "continued", continuing)
    assert store.prune(NONE) == [plain]
    assert ids(store) == {pinned, pushing, syncing, before, continuing}
    store.cancel(continuing, text="cancelled by ada")
    assert set(store.prune(NONE)) == {continuing}
    assert set(store.prune(NONE)) == {before}, "nothing refers to it any more"


def test_prune_passes_kept_jobs_and_goes_on_behind_them(driver: JobDriver, store: Store) -> None:
    jobs = cancelled(driver, store, PRUNED_AT_ONCE + 5)
    for job in jobs[: PRUNED_AT_ONCE + 1]:
        store.client.hset(f"{store.prefix}job:{job}", "kept_steps", "[1]")
    assert store.prune(NONE) == jobs[PRUNED_AT_ONCE + 1 :]


def test_prune_command_removes_and_tells_how_many(pi0q: Command, driver: JobDriver, store: Store) -> None:
    cancelled(driver, store, 2)
    done = pi0q("prune", "--keep", "1 jobs", "--yes")
    assert (done.returncode, done.stdout) == (0, "Removed 1 ended job; kept 1 job.\n")
    refused = pi0q("prune", "--keep", "1 week", "--yes")
    assert refused.returncode == 2 and "90d" in refused.stderr and "Nothing was removed" in refused.stderr
    assert len(ids(store)) == 1
