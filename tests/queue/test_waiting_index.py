"""The index of waiting jobs: what a box is told of, who is woken, and what older versions leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import redis

from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Priority
from pi0q.jobs.state import State
from pi0q.jobs.transition import ended
from pi0q.queue import celery_message, store_base
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant, Claimed, Offer, Reservation
from pi0q.queue.waiting_index import Candidates, ScanPosition
from tests.conftest import JobDriver

GIB = 1024
#: A GPU of 80 GiB.
CARD = (80 * GIB,)
CLAIMANT = Claimant(box="box-a", boot="1", lease_seconds=600)


class Looker:
    """A box that only looks: it claims nothing and remembers how far it has looked."""

    def __init__(self, store: Store, box: str = "box-a") -> None:
        self.store, self.box, self.position = store, box, ScanPosition()

    def ask(self, free: tuple[int, ...] | None = CARD, *, limit: int = 8, **how: Any) -> Candidates:
        answer = self.store.next_candidates(self.box, free, self.position, limit=limit, **how)
        self.position = answer.position
        return answer

    def look(self, free: tuple[int, ...] = CARD, *, limit: int = 8, called: str = "") -> list[str]:
        """All jobs that it is told of until there are no more."""
        found = list[str]()
        while True:
            answer, called = self.ask(free, limit=limit, called=called), ""
            found += [one.id for one in answer.found]
            if not answer.more:
                return found


def submit(driver: JobDriver, gib: float = 40, *, gpus: int = 1, **fields: object) -> str:
    return driver.submit(needs={"gpus": gpus, "vram_mib": int(gib * GIB), "disk_mib": 1}, **fields)  # type: ignore[arg-type]


def waiting(store: Store) -> list[str]:
    return [job.id for job in store.waiting()]


# -- looking ----------------------------------------------------------------------------------------


def test_a_job_that_fits_is_found_at_any_depth(driver: JobDriver, store: Store) -> None:
    for number in range(300):
        submit(driver, 100 + number % 7)
    fits = submit(driver)
    assert Looker(store).look() == [fits]


def test_jobs_come_in_the_order_of_the_queue_whatever_they_need(driver: JobDriver, store: Store) -> None:
    jobs = [submit(driver, gib, gpus=gpus) for gib, gpus in ((40, 1), (0, 0), (8, 1), (40, 1), (80, 1), (0, 0))]
    urgent = submit(driver, 8, priority="urgent")
    submit(driver, 8, gpus=2)
    assert Looker(store).look(limit=2) == [urgent, *jobs]


def test_several_gpus_must_each_have_enough(driver: JobDriver, store: Store) -> None:
    both, one, large = submit(driver, 20, gpus=2), submit(driver, 40), submit(driver, 41)
    assert Looker(store, "a").look((40 * GIB, 24 * GIB)) == [both, one]
    assert Looker(store, "b").look((48 * GIB, 16 * GIB)) == [one, large]


def test_what_was_looked_at_is_not_told_again(driver: JobDriver, store: Store) -> None:
    looker, jobs = Looker(store), [submit(driver) for _ in range(20)]
    assert looker.look() == jobs
    assert looker.look() == []
    late, urgent = submit(driver), submit(driver, priority="urgent")
    assert looker.look(called=late) == [late, urgent]
    assert looker.look() == []


def test_what_changes_is_told_again(driver: JobDriver, store: Store) -> None:
    job, other, looker = submit(driver), submit(driver), Looker(store)
    assert looker.look() == [job, other]
    store.record_preflight(other, "box-b", {"ok": True})
    assert looker.look() == [other]
    epoch = driver.run(job)
    store.move(job, ended(store.get(job), epoch, Reason.RUNNER_LOST, ""))
    assert looker.look() == [job]


def test_more_free_memory_brings_the_jobs_that_fit_now(driver: JobDriver, store: Store) -> None:
    small, looker = submit(driver, 20), Looker(store)
    assert looker.look((24 * GIB,)) == [small]
    large = submit(driver, 60)
    assert looker.look((24 * GIB + 5,)) == []
    assert looker.look(CARD) == [small, large], "the box knows that it has judged the first"


def test_less_vram_as_a_preflight_reckons_it_brings_the_job_to_smaller_boxes(driver: JobDriver, store: Store) -> None:
    first, job, last, looker = submit(driver, 8), submit(driver, 90), submit(driver, 8), Looker(store)
    assert looker.look() == [first, last]
    store.record_preflight(job, "box-b", {"ok": True, "vram_mib": 60 * GIB})
    assert looker.look() == [job] and waiting(store) == [first, job, last]
    store.record_preflight(first, "box-b", {"ok": True, "vram_mib": 500 * GIB})
    assert looker.look() == [first], "each box judges it by what it knows itself"


def test_jobs_with_as_many_needs_as_there_are_numbers_are_found(driver: JobDriver, store: Store) -> None:
    """Needs that a user chose so that each is a class of its own."""
    jobs = [driver.submit(needs={"gpus": 1, "vram_mib": 1000 - number}) for number in range(400)]
    assert int(store.client.zcard(store.prefix + "classes")) <= 257
    assert Looker(store).look(limit=50) == jobs


def test_unreadable_needs_stop_nobody(driver: JobDriver, store: Store) -> None:
    needs: tuple[Any, ...] = ([], {"gpus": "x"}, {"gpus": -3, "vram_mib": 1e300})
    odd = [driver.submit(needs=one) for one in needs]
    job = submit(driver)
    assert [one for one in Looker(store).look() if one not in odd] == [job]


def test_a_job_is_handed_out_once_for_its_preflight(driver: JobDriver, store: Store) -> None:
    too_large, checked = submit(driver, 500), submit(driver)
    store.record_preflight(checked, "box-b", {"ok": True})
    full = Looker(store)
    assert full.ask(None, unchecked=5).unchecked == (too_large,)
    assert Looker(store, "box-b").ask(unchecked=5).unchecked == ()


# -- wakes ------------------------------------------------------------------------------------------


def idle_boxes(store: Store, *free: int) -> list[str]:
    names = [f"gpu-{number}" for number in range(len(free))]
    for name, gib in zip(names, free, strict=True):
        looker = Looker(store, name)
        while looker.look((gib * GIB,)):
            continue
    return names


def put_off_calls(store: Store) -> None:
    """Keep a test that takes longer than a second from what the server does a second later."""
    for call in store.client.zrange(store.prefix + "calls", 0, -1):
        store.client.zadd(store.prefix + "calls", {str(call): 9e15})


def woken(store: Store, names: list[str], act: Callable[[], object]) -> list[str]:
    """The boxes that were woken by an act."""
    found = []
    with store.subscribe(*(f"wake:{name}" for name in names), "end") as words:
        act()
        store.client.publish(store.prefix + "end", "")
        while (said := words.get_message(timeout=10.0)) is not None:
            channel = str(said["channel"]).removeprefix(store.prefix)
            if channel == "end":
                break
            found.append(channel.removeprefix("wake:"))
    return found


def test_a_job_wakes_the_tightest_idle_boxes_that_it_fits(driver: JobDriver, store: Store) -> None:
    names = idle_boxes(store, 96, 24, 48, 80)
    assert woken(store, names, lambda: submit(driver, 40)) == ["gpu-2", "gpu-3"]
    assert woken(store, names, lambda: submit(driver, 20)) == ["gpu-1", "gpu-0"], "who was woken is not called again"
    assert woken(store, names, lambda: submit(driver, 20)) == []


def test_a_full_box_is_not_woken(driver: JobDriver, store: Store) -> None:
    names = idle_boxes(store, 80)
    Looker(store, names[0]).ask(None)
    assert woken(store, names, lambda: submit(driver)) == []


def test_a_job_that_nobody_takes_wakes_more_boxes(driver: JobDriver, store: Store) -> None:
    names = idle_boxes(store, *range(80, 90))
    job = ""

    def first() -> None:
        nonlocal job
        job = submit(driver)

    assert woken(store, names, first) == names[:2]

    def a_second_later() -> None:
        (call,) = store.client.zrange(store.prefix + "calls", 0, -1)
        store.client.zadd(store.prefix + "calls", {str(call): 1})
        Looker(store, "somebody").ask(None)

    # The first two looked, refused it, and are idle again.
    put_off_calls(store)
    idle_boxes(store, 80, 81)
    assert woken(store, names, a_second_later) == names[2:6]
    driver.claim(job)
    assert woken(store, names, a_second_later) == []
    assert store.client.zcard(store.prefix + "calls") == 0


def test_a_job_that_nobody_takes_wakes_each_idle_box_once_and_few_at_a_time(driver: JobDriver, store: Store) -> None:
    free = dict(zip(idle_boxes(store, *range(40, 240)), range(40, 240), strict=True))
    found = woken(store, list(free), lambda: submit(driver, 30))
    rounds, called = [len(found)], found
    while found:
        put_off_calls(store)
        for name in found:
            # It refuses the job, and is idle again.
            looker = Looker(store, name)
            while looker.look((free[name] * GIB,)):
                continue
        (call,) = store.client.zrange(store.prefix + "calls", 0, -1)
        store.client.zadd(store.prefix + "calls", {str(call): 1})
        found = woken(store, list(free), store.call_again)
        rounds, called = [*rounds, len(found)], called + found
    assert rounds == [2, 4, 8, 16, 32, 64, 64, 10, 0] and sorted(called) == sorted(free)


def test_a_look_that_changes_nothing_writes_nothing(driver: JobDriver, store: Store) -> None:
    looker = Looker(store)
    submit(driver, 500)
    looker.look()
    before = store.client.info("persistence")["rdb_changes_since_last_save"]
    assert looker.look() == []
    assert store.client.info("persistence")["rdb_changes_since_last_save"] == before


def test_for_a_second_a_job_is_told_only_to_the_boxes_that_it_woke(driver: JobDriver, store: Store) -> None:
    idle_boxes(store, 80)
    job, other = submit(driver), Looker(store, "other")
    put_off_calls(store)
    assert other.look() == []
    assert Looker(store, "gpu-0").look(called=job) == [job]
    store.client.zadd(store.prefix + "calls", {f"{job}:1": 1})
    assert other.look() == [job], "nobody took it"


# -- claims -----------------------------------------------------------------------------------------


def offers(*jobs: str) -> list[Offer]:
    return [Offer(job_id=job, reservation=Reservation(), text=f"took {job}") for job in jobs]


def test_a_claim_takes_the_first_that_still_waits(driver: JobDriver, store: Store) -> None:
    jobs = [submit(driver) for _ in range(4)]
    driver.claim(jobs[0], "box-b")
    store.cancel(jobs[1], text="no")
    claimed = store.claim_first(offers("nosuchjob", *jobs), CLAIMANT)
    assert isinstance(claimed, Claimed) and (claimed.job_id, claimed.epoch) == (jobs[2], 1)
    assert store.get(jobs[2]).history[-1].text == f"took {jobs[2]}"
    assert waiting(store) == [jobs[3]]
    assert store.claim_first(offers(*jobs[:3]), CLAIMANT) == "gone"


def test_celerys_list_holds_the_messages_of_the_waiting_jobs_and_no_other(driver: JobDriver, store: Store) -> None:
    jobs = [submit(driver, number % 3, priority=("normal", "low")[number % 2]) for number in range(40)]
    for number in (20, 0, 38, 7, 6, 22, 1):
        driver.claim(jobs.pop(number % len(jobs)))
    back = jobs.pop(5)
    epoch = driver.run(back)
    assert store.move(back, ended(store.get(back), epoch, Reason.RUNNER_LOST, "")) is State.QUEUED
    store.bump(jobs[3], Priority.URGENT, text="")
    listed = [
        celery_message.job_of(str(raw))
        for key in celery_message.QUEUE_KEYS
        for raw in store.client.lrange(store.prefix + key, 0, -1)
    ]
    assert sorted(map(str, listed)) == sorted([*jobs, back]) == sorted(waiting(store))
    for job in (back, *jobs):
        driver.claim(job)
    assert not any(store.client.exists(store.prefix + key) for key in celery_message.QUEUE_KEYS)
    for left in ("waiting", "classes", "news", "unchecked", "spots"):
        assert store.client.exists(store.prefix + left) == 0, left


# -- older versions ------------------------------------------------------------------------------------


def older_submit(store: Store, number: int, *, first: bool = False, **fields: str) -> str:
    """What submit.lua of a version without an index writes, near enough."""
    job, now = f"{number:012x}", 1_790_000_000_000 + number
    needs = {"gpus": 1, "vram_mib": 40 * GIB, "disk_mib": 1}
    raw = celery_message.build(job, name="old", needs=needs, priority="normal", origin="ada")
    queue = celery_message.queue_key(6)
    record = {"id": job, "name": "old", "state": "queued", "priority": "normal", "queue": queue, "message": raw}
    record |= {"needs": json.dumps(needs), "created_ms": str(now), "queued_ms": str(now), "epoch": "0"} | fields
    pipe = store.client.pipeline()
    pipe.hset(f"{store.prefix}job:{job}", mapping=record)  # type: ignore[arg-type]
    pipe.zadd(f"{store.prefix}live", {job: now})
    (pipe.rpush if first else pipe.lpush)(store.prefix + queue, raw)
    pipe.execute()
    return job


def older_claim(store: Store, job: str) -> None:
    """What claim.lua of such a version does."""
    raw = store.raw(job)
    store.client.lrem(store.prefix + raw["queue"], 0, raw["message"])
    store.client.hset(f"{store.prefix}job:{job}", mapping={"state": "claimed", "epoch": "1", "box": "old-box"})
    store.client.zadd(f"{store.prefix}leases", {job: store.now_ms() + 600_000})


def test_a_queue_without_an_index_gets_one_in_its_order(driver: JobDriver, store: Store) -> None:
    jobs = [older_submit(store, number) for number in range(1000)]
    late, looker = submit(driver), Looker(store)
    assert looker.look(limit=50) == [*jobs, late]
    for job in (jobs[500], jobs[0], jobs[999]):
        driver.claim(job)
    assert store.client.llen(store.prefix + celery_message.queue_key(6)) == 998
    assert store.sweep() == []


def test_what_an_older_box_claimed_is_not_told(driver: JobDriver, store: Store) -> None:
    jobs = [submit(driver) for _ in range(5)]
    older_claim(store, jobs[0])
    older_claim(store, jobs[3])
    assert Looker(store).look() == [jobs[1], jobs[2], jobs[4]]
    assert store.client.hlen(store.prefix + "waiting") == 3
    for job in (jobs[4], jobs[1], jobs[2]):
        driver.claim(job)
    assert not store.client.exists(store.prefix + celery_message.queue_key(6))


def test_what_an_older_client_submits_or_gives_back_is_found(driver: JobDriver, store: Store) -> None:
    first, looker = submit(driver), Looker(store)
    assert looker.look() == [first]
    new = older_submit(store, 1)
    back = older_submit(store, 2, first=True, box="old-box")
    assert sorted(looker.look()) == sorted([new, back])
    assert waiting(store) == [back, first, new]
    for job in (first, new, back):
        driver.claim(job)
    assert not store.client.exists(store.prefix + celery_message.queue_key(6))


# -- the server's work does not grow ---------------------------------------------------------------------


def work(client: redis.Redis, act: Callable[[], object]) -> dict[str, int]:
    """How often the server runs each command for an act, those of scripts included."""
    client.config_resetstat()
    act()
    told = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in told.items() if "config" not in name}


#: Puts jobs into the queue as submit.lua does, very many at a time; their records hold what the index needs.
FILL = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local id = string.format('%012x', number)
  local message = string.rep('x', 800) .. '"delivery_tag": "' .. id .. '"'
  set(id, { id = id, state = 'queued', queue = 'jobs\\6\\0226', message = message, needs = ARGV[3] })
  redis.call('ZADD', P .. 'live', number, id)
  enqueue_last(id)
end
"""


def fill(store: Store, first: int, last: int) -> None:
    """Fill the queue with the jobs of these numbers, as ids."""
    script = store.client.register_script(store_base.source("pin").partition("-- pin(")[0] + FILL)
    needs = json.dumps({"gpus": 1, "vram_mib": 40 * GIB, "disk_mib": 1})
    for at in range(first, last + 1, 500):
        script(keys=[store.prefix], args=[at, min(at + 499, last), needs])


def test_no_act_takes_the_server_longer_with_a_hundred_times_the_jobs(driver: JobDriver, store: Store) -> None:
    measured = list[dict[str, dict[str, int]]]()
    for first, last in ((1, 1_000), (1_001, 100_000)):
        fill(store, first, last)
        ids = [f"{number:012x}" for number in (first, (first + last) // 2, last)]
        looker, late, newest = Looker(store), offers(ids[1]), submit(driver)
        acts: dict[str, Callable[[], object]] = {
            "submit": partial(submit, driver),
            "look": partial(looker.ask, limit=8),
            "claim at the head": partial(driver.claim, ids[0]),
            "claim in the middle": partial(driver.claim, ids[1]),
            "claim at the end": partial(driver.claim, ids[2]),
            "a claim that comes too late": partial(store.claim_first, late, CLAIMANT),
            "cancel": partial(store.cancel, newest, text=""),
            "sweep": partial(store.sweep, every_seconds=0.001),
        }
        measured.append({name: work(store.client, act) for name, act in acts.items()})
    few, many = measured
    for name, commands in many.items():
        # A step of the sweep compares other jobs each time.
        grown = {one: count for one, count in commands.items() if count > few[name].get(one, 0) + 3}
        assert not grown, (name, grown)
        # Each of these walks through a list.
        assert not {"lrem", "lpos", "linsert", "keys", "scan"} & set(commands), name
