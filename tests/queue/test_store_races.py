"""Several hands reach for one thing at the same moment: each has its own connection, and all start together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest
import redis

from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import ENDED, State
from pi0q.jobs.transition import cancelled, ended, preparing
from pi0q.queue import celery_message
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimed

from ..conftest import PATIENCE, JobDriver

T = TypeVar("T")
#: How often a race is run whose winner is a matter of luck.
ROUNDS = 25


@pytest.fixture
def stores(store: Store, connect: Callable[[], redis.Redis]) -> Callable[[int], list[Store]]:
    """So many stores on the same keys, each with a connection that is already open."""

    def stores(count: int) -> list[Store]:
        opened = [Store(connect(), store.prefix) for _ in range(count)]
        for each in opened:
            each.now_ms()
        return opened

    return stores


def together(*acts: Callable[[], T]) -> list[T]:
    """Does all of them at once; what each gave."""
    barrier = Barrier(len(acts))

    def act(number: int) -> T:
        barrier.wait(PATIENCE)
        return acts[number]()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(act, range(len(acts))))


def claiming(store: Store, job: str, box: str, promises: Sequence[tuple[str, int, int]] = ()) -> Callable[[], object]:
    return lambda: JobDriver(store).try_claim(job, box, promises=promises)


def test_forty_boxes_reach_for_one_job_and_one_gets_it(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    job = driver.submit()
    answers = together(*(claiming(each, job, f"box-{n}") for n, each in enumerate(stores(40))))
    assert Counter(map(str, answers)) == {str(Claimed(epoch=1)): 1, "gone": 39}
    winner = f"box-{answers.index(Claimed(epoch=1))}"
    assert store.get(job).box == winner
    assert [job.id for job in store.owned(winner)] == [job]
    assert sum(store.client.llen(f"{store.prefix}box.box-{n}") for n in range(40)) == 1
    assert [event.state for event in store.get(job).history] == [State.QUEUED, State.CLAIMED]


def test_forty_boxes_reach_for_forty_jobs_and_each_job_goes_to_one(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    jobs = [driver.submit() for _ in range(40)]

    def take_all(own: Store, box: str) -> list[str]:
        return [job for job in jobs if isinstance(JobDriver(own).try_claim(job, box), Claimed)]

    takers = [(each, f"box-{n}") for n, each in enumerate(stores(8))]
    taken = together(*(lambda each=each, box=box: take_all(each, box) for each, box in takers))
    assert sorted(job for part in taken for job in part) == sorted(jobs)
    for part, (_, box) in zip(taken, takers, strict=True):
        assert sorted(job.id for job in store.owned(box)) == sorted(part)
    assert {store.get(job).epoch for job in jobs} == {1}


def test_two_claims_never_promise_the_same_memory(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    """Both slots of a box judged the same free GPU; whoever comes second must judge again."""
    jobs = [driver.submit() for _ in range(8)]
    seen, _ = store.promises(["GPU-1"])["GPU-1"]
    acts = [claiming(each, job, "box-a", [("GPU-1", seen, 92160)]) for each, job in zip(stores(8), jobs, strict=True)]
    answers = together(*acts)
    assert Counter(map(str, answers)) == {str(Claimed(epoch=1)): 1, "stale": 7}
    winner = jobs[answers.index(Claimed(epoch=1))]
    assert store.promises(["GPU-1"]) == {"GPU-1": (1, {winner: 92160})}
    # The others are as they were: still waiting, still in order, never owned.
    assert [job.id for job in store.waiting()] == [job for job in jobs if job != winner]
    assert [job.id for job in store.owned("box-a")] == [winner]


def test_a_stale_claim_takes_nothing_even_of_what_was_free(driver: JobDriver, store: Store) -> None:
    first, second = driver.submit(), driver.submit()
    driver.claim(first, promises=[("GPU-1", 0, 5)])
    assert driver.try_claim(second, promises=[("GPU-0", 0, 5), ("GPU-1", 0, 5)]) == "stale"
    assert store.promises(["GPU-0"]) == {"GPU-0": (0, {})}
    assert driver.try_claim(second, promises=[("GPU-0", 0, 5), ("GPU-1", 1, 5)]) == Claimed(epoch=1)


def test_what_is_given_back_makes_what_was_judged_before_stale(driver: JobDriver, store: Store) -> None:
    first, second = driver.submit(), driver.submit()
    epoch = driver.run(first, promises=[("GPU-1", 0, 5)])
    seen, _ = store.promises(["GPU-1"])["GPU-1"]
    store.move(first, ended(store.get(first), epoch, Reason.FINISHED, ""))
    assert driver.try_claim(second, promises=[("GPU-1", seen, 5)]) == "stale"
    seen, promised = store.promises(["GPU-1"])["GPU-1"]
    assert promised == {}
    assert driver.try_claim(second, promises=[("GPU-1", seen, 5)]) == Claimed(epoch=1)


def test_one_file_submitted_by_many_hands_at_once_is_one_job(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    fields = store.client.hgetall(store.prefix + f"job:{driver.submit()}")
    there = together(
        *(lambda n=n, each=each: each.submit(f"job-{n}", fields, text="", key="k") for n, each in enumerate(stores(20)))
    )
    assert len(set(there)) == 1 and store.page().counts.live == 2


def test_one_submit_sent_by_many_is_one_job(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    template = driver.submit()
    fields = store.client.hgetall(store.prefix + f"job:{template}")
    raw = celery_message.build("abc123abc123", name="n", needs={}, priority="normal", origin="ada@laptop")
    fields |= {"id": "abc123abc123", "message": raw}
    together(*(lambda each=each: each.submit("abc123abc123", fields, text="") for each in stores(20)))
    assert [job.id for job in store.waiting()] == [template, "abc123abc123"]
    assert len(store.get("abc123abc123").history) == 1


def test_two_runners_of_one_message_and_one_starts(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    job = driver.submit()
    take = preparing(driver.claim(job), attempt=1, run_dir="/x")
    answers = together(*(lambda each=each: each.move(job, take) for each in stores(10)))
    assert Counter(answers) == {State.PREPARING: 1, None: 9}


def test_cancelled_claimed_or_both_but_one_end(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    """A user cancels in the very moment in which a box claims."""
    user, box = stores(2)
    for _ in range(ROUNDS):
        job = driver.submit()
        claimed, state = together(claiming(box, job, "box-a"), lambda job=job: user.cancel(job, text="no"))  # type: ignore[misc]
        if isinstance(claimed, Claimed):
            assert (state, store.get(job).state) == (State.CLAIMED, State.CLAIMED)
            assert JobDriver(box).report(job, claimed.epoch) == "cancel"
            assert box.move(job, cancelled(claimed.epoch, text="no")) is State.CANCELLED
        else:
            assert (claimed, state) == ("gone", State.CANCELLED)
        once_over(store, job, State.CANCELLED)
    assert store.owned("box-a") == [] and store.waiting() == []


def test_finished_cancelled_and_swept_but_one_end(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    """In the moment in which a run finishes its user cancels it and a sweep finds its lease run out."""
    user, owner, sweeper = stores(3)
    ends = Counter[State]()
    for _ in range(ROUNDS):
        job = driver.submit()
        epoch = driver.run(job)
        driver.let_lease_run_out(job)
        store.client.delete(store.prefix + "swept")
        done = ended(store.get(job), epoch, Reason.FINISHED, "reached step 50000")
        finished, _, swept = together(
            lambda job=job, done=done: owner.move(job, done),  # type: ignore[misc]
            lambda job=job: user.cancel(job, text="no"),  # type: ignore[misc]
            sweeper.sweep,
        )
        state = store.get(job).state
        assert (finished is State.SUCCEEDED) == (state is State.SUCCEEDED) == (swept == [])
        ends[state] += 1
        once_over(store, job, state)
        with pytest.raises(OwnershipLost):
            JobDriver(owner).report(job, epoch, step=1)
    assert set(ends) <= {State.SUCCEEDED, State.CANCELLED} and ends.total() == ROUNDS


def test_many_ends_of_one_run_and_the_first_counts(
    driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]
) -> None:
    for _ in range(ROUNDS // 5):
        job = driver.submit()
        epoch = driver.run(job)
        record = store.get(job)
        reasons = [Reason.FINISHED, Reason.CUDA_OUT_OF_MEMORY, Reason.NON_FINITE_LOSS, Reason.SPEC_REFUSED]
        ways = [ended(record, epoch, reason, str(reason)) for reason in reasons] + [cancelled(epoch, text="no")]
        pairs = zip(stores(len(ways)), ways, strict=True)
        answers = together(*(lambda each=each, job=job, way=way: each.move(job, way) for each, way in pairs))
        (state,) = (answer for answer in answers if answer)
        once_over(store, job, state)
        assert store.get(job).reason is ways[answers.index(state)].reason


def test_many_sweeps_at_once_mend_once(driver: JobDriver, store: Store, stores: Callable[[int], list[Store]]) -> None:
    job, lost = driver.submit(), driver.submit()
    driver.run(job)
    driver.let_lease_run_out(job)
    store.client.delete(store.prefix + celery_message.queue_key(6))
    answers = together(*(each.sweep for each in stores(10)))
    assert Counter(map(tuple, map(sorted, answers))) == {tuple(sorted([job, lost])): 1, (): 9}
    assert [record.id for record in store.waiting()] == [job, lost]
    assert store.client.llen(store.prefix + celery_message.queue_key(6)) == 2


def test_two_boxes_of_one_name_and_one_has_it(store: Store, stores: Callable[[int], list[Store]]) -> None:
    pairs = list(enumerate(stores(10)))
    answers = together(*(lambda n=n, each=each: each.announce_box("gpu", f"id-{n}", {}) for n, each in pairs))
    assert Counter(answer is None for answer in answers) == {False: 1, True: 9}
    assert store.boxes()[0]["box_id"] == f"id-{next(n for n, answer in enumerate(answers) if answer)}"


def once_over(store: Store, job: str, state: State) -> None:
    """It ended once, in this state, and nothing is left of it where it waited or ran."""
    record = store.get(job)
    assert record.state is state and state in ENDED
    assert [event.state for event in record.history if event.state in ENDED] == [state]
    assert store.client.zscore(store.prefix + "live", job) is None
    assert store.client.zscore(store.prefix + "ended", job) == record.ended_ms
    assert store.client.zscore(store.prefix + "leases", job) is None
    assert job not in [waiting.id for waiting in store.waiting()]
