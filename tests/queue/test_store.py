"""One job after another; what happens when several hands reach for one is in test_store_races.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.outcome import MAX_RUNS_WITHOUT_CHECKPOINT, Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.jobs.transition import cancelled, ended, preparing, running
from pi0q.queue import celery_message, job_references, refusals, store_reads
from pi0q.queue.box_fields import EVERY_JOB
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.refusals import Problem
from pi0q.queue.store import Store, await_news, heard
from pi0q.queue.store_reads import StoreReads
from pi0q.queue.store_types import Claimant, CopyRuns, LogChunk, Reservation
from pi0q.queue.waiting_index import ScanPosition

from ..conftest import JobDriver, WaitFor

#: Bytes of a log that the queue keeps (lua/common.lua).
TAIL_BYTES = 32768


def waiting(store: Store) -> list[str]:
    return [job.id for job in store.waiting()]


def finish(store: Store, job: str, epoch: int) -> State | None:
    return store.move(job, ended(store.get(job), epoch, Reason.FINISHED, "reached step 50000"))


def sweep(store: Store) -> list[str]:
    """A sweep that does not mind the last one."""
    store.client.delete(store.prefix + "swept")
    return store.sweep()


def as_sent(store: Store, job: str) -> dict[str, str]:
    """The fields that its submit sent, near enough."""
    return {str(name): str(value) for name, value in store.client.hgetall(store.prefix + f"job:{job}").items()}


# -- submit ---------------------------------------------------------------------------------------


def test_a_submitted_job_waits_and_says_who_wants_what(driver: JobDriver, store: Store) -> None:
    before = store.now_ms()
    job = store.get(driver.submit("抓盒子 №1", priority="high", spec={"train": {"steps": 5}}))
    assert (job.name, job.state, job.priority, job.submitter) == ("抓盒子 №1", State.QUEUED, "high", "ada@laptop")
    assert (job.spec, job.needs["vram_mib"], job.steps) == ({"train": {"steps": 5}}, 92160, 50000)
    assert before <= job.created_ms <= store.now_ms()
    assert job.created_ms == job.updated_ms == job.queued_ms
    assert (job.epoch, job.attempt, job.box, job.reason) == (0, 0, None, None)
    (event,) = job.history
    assert (event.state, event.epoch, event.text) == (State.QUEUED, 0, "submitted by ada@laptop")


def test_the_same_submit_twice_is_one_job(driver: JobDriver, store: Store) -> None:
    """A client that lost the answer sends it again."""
    job = driver.submit()
    fields = as_sent(store, job)
    assert store.submit(job, fields, text="submitted again") == job
    assert waiting(store) == [job]
    assert len(store.get(job).history) == 1
    assert store.page().counts.live == 1


def test_the_same_submit_after_its_end_does_not_bring_it_back(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    fields = as_sent(store, job)
    store.cancel(job, text="no")
    assert store.submit(job, fields, text="submitted again") == job
    assert (waiting(store), store.get(job).state) == ([], State.CANCELLED)


# -- the queue ------------------------------------------------------------------------------------


def test_the_most_urgent_is_first_and_of_these_the_oldest(driver: JobDriver, store: Store) -> None:
    order = ["low", "normal", "urgent", "high", "normal", "urgent", "low", "high"]
    jobs = [driver.submit(priority=priority) for priority in order]
    assert waiting(store) == [jobs[number] for number in (2, 5, 3, 7, 1, 4, 0, 6)]


def test_waiting_is_the_head_of_the_queue(driver: JobDriver, store: Store) -> None:
    jobs = [driver.submit(needs={"gpus": number % 2, "vram_mib": number}) for number in range(5)]
    urgent = driver.submit(priority="urgent")
    assert [job.id for job in store.waiting(depth=3)] == [urgent, *jobs[:2]]


def test_a_scan_brings_what_a_box_must_judge(driver: JobDriver, store: Store) -> None:
    driver.submit(spec={"train": {"steps": 5}})
    (job,) = store.waiting()
    assert (job.needs["disk_mib"], job.spec["train"], job.queued_ms) == (122880, {"steps": 5}, job.created_ms)


def test_a_forged_message_does_not_stop_the_scan(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    for forged in (b"\xff", b"not json", b"{}", b'{"headers": {"id": "../../etc"}}', b'{"headers": {"id": []}}'):
        store.client.rpush(store.prefix + celery_message.queue_key(6), forged)
    # As `connect` makes it; the test's own client is strict about UTF-8.
    store.client.lrem(store.prefix + celery_message.queue_key(6), 0, b"\xff")  # type: ignore[arg-type]
    assert waiting(store) == [job]


def test_a_message_that_is_there_twice_is_one_job_and_a_sweep_removes_the_copy(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    raw = store.client.hget(store.prefix + f"job:{job}", "message")
    store.client.lpush(store.prefix + celery_message.queue_key(6), str(raw))
    assert waiting(store) == [job]
    assert sweep(store) == []
    assert store.client.lrange(store.prefix + celery_message.queue_key(6), 0, -1) == [raw]
    driver.claim(job)
    assert store.client.exists(store.prefix + celery_message.queue_key(6)) == 0


def test_a_message_that_outlived_its_job_goes_with_the_next_sweep(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    raw = str(store.client.hget(store.prefix + f"job:{job}", "message"))
    store.cancel(job, text="no")
    store.client.lpush(store.prefix + celery_message.queue_key(6), raw)
    assert driver.try_claim(job) == "gone"
    assert waiting(store) == []
    assert sweep(store) == []
    assert store.client.exists(store.prefix + celery_message.queue_key(6)) == 0


# -- claim, run, end ------------------------------------------------------------------------------


def test_a_claim_moves_the_message_to_the_box_and_writes_down_the_owner(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    raw = store.client.hget(store.prefix + f"job:{job}", "message")
    gpus, promises = ["GPU-1"], [("GPU-1", 0, 92160), ("box-a:disk", 0, 122880)]
    claimant = Claimant(box="box-a", boot="77", lease_seconds=600)
    store.claim(job, claimant, Reservation(promises=promises, gpus=gpus), text="fits")
    assert waiting(store) == []
    assert store.client.lrange(store.prefix + "box.box-a", 0, -1) == [raw]
    record = store.get(job)
    assert (record.state, record.epoch, record.box, record.boot) == (State.CLAIMED, 1, "box-a", "77")
    assert record.gpus == ("GPU-1",)
    assert [owned.id for owned in store.owned("box-a")] == [job]
    assert store.promises(["GPU-1", "box-a:disk"]) == {"GPU-1": (1, {job: 92160}), "box-a:disk": (1, {job: 122880})}


def test_what_does_not_wait_cannot_be_claimed(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    assert driver.try_claim(job, "box-b") == "gone"
    finish(store, job, epoch)
    assert driver.try_claim(job, "box-b") == "gone"
    assert driver.try_claim("nosuchjob") == "gone"
    assert (store.get(job).epoch, store.owned("box-b")) == (1, [])


def test_a_whole_life(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.claim(job, promises=[("GPU-1", 0, 92160)])
    assert store.move(job, preparing(epoch, attempt=1, run_dir="/data/runs/x")) is State.PREPARING
    assert store.move(job, running(epoch, text="", started_ms=17)) is State.RUNNING
    saved = Saved(step=20000, path="/data/runs/x/output/checkpoints/020000", manifest="ab" * 32, bytes=28)
    assert driver.report(job, epoch, step=20001, loss=0.25, checkpoint=saved) == ""
    record = store.get(job)
    assert (record.step, record.loss, record.checkpoint, record.started_ms) == (20001, 0.25, saved, 17)
    assert finish(store, job, epoch) is State.SUCCEEDED
    record = store.get(job)
    assert (record.state, record.reason, record.detail) == (State.SUCCEEDED, Reason.FINISHED, "reached step 50000")
    assert record.ended_ms is not None and record.checkpoint == saved
    states = [event.state.value for event in record.history]
    assert states == ["queued", "claimed", "preparing", "running", "succeeded"]
    # Nothing of it is held any more.
    assert store.promises(["GPU-1"]) == {"GPU-1": (2, {})}
    assert store.owned("box-a") == [] and waiting(store) == []
    for gone in ("leases", "box.box-a", "live"):
        assert store.client.exists(store.prefix + gone) == 0


@pytest.mark.parametrize("move", [preparing(1, attempt=1, run_dir="/x"), running(1, text="", started_ms=None)])
def test_a_move_that_the_table_does_not_have_changes_nothing(move: Any, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    assert store.move(job, ended(store.get(job), driver.claim(job), Reason.RUNNER_LOST, "")) is State.QUEUED
    before = store.client.hgetall(store.prefix + f"job:{job}")
    assert store.move(job, move) is None
    assert store.client.hgetall(store.prefix + f"job:{job}") == before
    with pytest.raises(StaleServer):
        store.move("nosuchjob", move)
    assert store.client.exists(store.prefix + "job:nosuchjob") == 0


def test_a_message_that_comes_twice_starts_once(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.claim(job)
    store.redeliver(job, "box-a")
    assert store.client.llen(store.prefix + "box.box-a") == 2
    assert store.move(job, preparing(epoch, attempt=1, run_dir="/x")) is State.PREPARING
    assert store.move(job, preparing(epoch, attempt=1, run_dir="/x")) is None
    finish(store, job, epoch)


def test_a_message_of_no_job_is_not_delivered_again(store: Store) -> None:
    store.redeliver("nosuchjob", "box-a")
    assert store.client.exists(store.prefix + "box.box-a") == 0


# -- the fence ------------------------------------------------------------------------------------


@pytest.fixture
def succeeded_by(driver: JobDriver, store: Store) -> tuple[str, int, int]:
    """A job that its first owner lost to another: (job, old epoch, new epoch)."""
    job = driver.submit()
    old = driver.run(job, "box-a")
    driver.let_lease_run_out(job)
    assert sweep(store) == [job]
    return job, old, driver.run(job, "box-b")


def test_a_former_owner_can_neither_move_nor_report(succeeded_by: tuple[str, int, int], store: Store) -> None:
    job, old, new = succeeded_by
    assert new == old + 1
    before = store.client.hgetall(store.prefix + f"job:{job}")
    tail = store.tail(job)
    with pytest.raises(OwnershipLost, match=f"{job} is no longer ours under claim {old}"):
        store.report(job, old, lease_seconds=600, fields={"step": 7}, log=LogChunk(text="late words"))
    for late in (
        ended(store.get(job), old, Reason.FINISHED, "late"),
        ended(store.get(job), old, Reason.TRAINER_FAILED, "late"),
        cancelled(old, text="late"),
    ):
        assert store.move(job, late) is None
    assert store.client.hgetall(store.prefix + f"job:{job}") == before
    assert store.tail(job) == tail


def test_the_new_owner_goes_on_undisturbed(succeeded_by: tuple[str, int, int], driver: JobDriver, store: Store) -> None:
    job, _, new = succeeded_by
    driver.report(job, new, step=7)
    assert finish(store, job, new) is State.SUCCEEDED


def test_nothing_is_reported_of_a_job_that_has_ended(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    finish(store, job, epoch)
    with pytest.raises(OwnershipLost):
        driver.report(job, epoch, step=7)
    assert store.client.exists(store.prefix + "leases") == 0


def test_a_report_renews_the_lease(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    driver.let_lease_run_out(job)
    before = store.now_ms()
    store.report(job, epoch, lease_seconds=600, fields={})
    until = store.client.zscore(store.prefix + "leases", job)
    assert until is not None and before + 600_000 <= until <= store.now_ms() + 600_000
    assert sweep(store) == []


# -- interruption ---------------------------------------------------------------------------------


def test_an_interrupted_job_is_next_again_with_all_it_had(driver: JobDriver, store: Store) -> None:
    first, second = driver.submit(), driver.submit()
    epoch = driver.run(first, promises=[("GPU-1", 0, 92160)])
    third = driver.submit()
    saved = Saved(step=20000, path="/x", manifest="ab" * 32, bytes=28)
    driver.report(first, epoch, step=20500, checkpoint=saved, phase="saving", vram_now_mib=90000, log="words\n")
    assert store.move(first, ended(store.get(first), epoch, Reason.BOX_RESTARTED, "rebooted")) is State.QUEUED
    assert waiting(store) == [first, second, third]
    job = store.get(first)
    assert (job.checkpoint, job.box, job.epoch, job.attempt) == (saved, "box-a", 1, 0)
    assert (job.reason, job.detail, job.phase, job.vram_now_mib) == (Reason.BOX_RESTARTED, "rebooted", "", 0)
    assert store.promises(["GPU-1"]) == {"GPU-1": (2, {})}
    assert store.tail(first) == ("words\n", 6)
    assert driver.claim(first) == 2
    assert store.get(first).reason is None


def test_a_job_goes_back_when_its_lease_ran_out(driver: JobDriver, store: Store) -> None:
    first, second = driver.submit(), driver.submit()
    driver.run(first, promises=[("GPU-1", 0, 92160)])
    assert sweep(store) == []
    driver.let_lease_run_out(first)
    assert sweep(store) == [first]
    assert waiting(store) == [first, second]
    job = store.get(first)
    assert (job.state, job.reason) == (State.QUEUED, Reason.LEASE_EXPIRED)
    assert job.detail == job.history[-1].text == "box-a was not heard of for the length of a lease"
    assert store.owned("box-a") == [] and store.promises(["GPU-1"])["GPU-1"][1] == {}
    assert store.client.exists(store.prefix + "leases", store.prefix + "box.box-a") == 0


def test_a_report_whose_answer_was_lost_says_nothing_twice(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)

    def say(log: str, at: int) -> None:
        store.report(job, epoch, lease_seconds=600, fields={}, log=LogChunk(text=log, at=at))

    say("é first\n", 0)
    say("é first\nsecond\n", 0)
    assert store.tail(job) == ("é first\nsecond\n", 16)
    say("second\n", 9)
    assert store.tail(job) == ("é first\nsecond\n", 16)
    # 100 bytes were too many to be kept while the server was away.
    say("later\n", 116)
    assert store.tail(job) == ("é first\nsecond\nlater\n", 122)


def test_a_lease_is_as_long_as_the_claim_said(driver: JobDriver, store: Store, wait_for: WaitFor) -> None:
    job = driver.submit()
    driver.claim(job, lease_seconds=0.05)
    assert wait_for(lambda: sweep(store)) == [job]


def test_a_lease_that_ran_out_uses_up_no_attempt(driver: JobDriver, store: Store) -> None:
    job = driver.submit(attempt=1)
    driver.run(job, attempt=2)
    driver.let_lease_run_out(job)
    sweep(store)
    assert (store.get(job).attempt, store.get(job).runs_without_checkpoint) == (1, 1)
    # No runner took it: there is none to give back, and nothing is said of the job.
    driver.claim(job)
    driver.let_lease_run_out(job)
    sweep(store)
    assert (store.get(job).attempt, store.get(job).runs_without_checkpoint) == (1, 1)


def test_a_job_that_takes_every_box_down_with_it_is_stopped(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    for _ in range(MAX_RUNS_WITHOUT_CHECKPOINT - 1):
        driver.run(job)
        driver.let_lease_run_out(job)
        sweep(store)
        assert store.get(job).state is State.QUEUED
    driver.run(job)
    driver.let_lease_run_out(job)
    assert sweep(store) == [job]
    record = store.get(job)
    assert (record.state, record.reason) == (State.FAILED, Reason.CRASH_LOOP)
    assert record.detail.endswith(f"({MAX_RUNS_WITHOUT_CHECKPOINT} times without a new checkpoint)")
    assert waiting(store) == []


def test_a_cancelled_job_whose_box_dies_for_the_last_time_is_cancelled(store: Store, driver: JobDriver) -> None:
    job = driver.submit(fruitless=MAX_RUNS_WITHOUT_CHECKPOINT)
    driver.run(job)
    store.cancel(job, text="cancelled by ada@laptop")
    driver.let_lease_run_out(job)
    assert sweep(store) == [job]
    assert (store.get(job).state, store.get(job).reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)


def test_a_lost_message_comes_back_once(driver: JobDriver, store: Store) -> None:
    job, other = driver.submit(priority="high"), driver.submit()
    store.client.delete(store.prefix + celery_message.queue_key(3))
    assert waiting(store) == [job, other], "boxes find it by the index"
    assert sweep(store) == [job]
    assert store.client.llen(store.prefix + celery_message.queue_key(3)) == 1
    assert waiting(store) == [job, other]
    assert store.get(job).history[-1].text == "its message was lost; it is back in the queue"
    assert sweep(store) == []


def test_of_many_that_come_back_together_the_oldest_is_next(driver: JobDriver, store: Store) -> None:
    jobs = [driver.submit() for _ in range(6)]
    for job in (jobs[1], jobs[0], jobs[2]):
        driver.run(job)
        driver.let_lease_run_out(job)
    store.client.delete(store.prefix + celery_message.queue_key(6))
    assert sorted(sweep(store)) == sorted(jobs)
    assert waiting(store) == jobs


def test_sweeps_leave_each_other_time(driver: JobDriver, store: Store) -> None:
    assert store.sweep(every_seconds=60) == []
    job = driver.submit()
    store.client.delete(store.prefix + celery_message.queue_key(6))
    assert store.sweep(every_seconds=60) == []
    store.client.delete(store.prefix + "swept")
    assert store.sweep(every_seconds=0) == [job]


def test_a_lease_of_a_job_that_nobody_owns_is_dropped(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    driver.let_lease_run_out(job)
    assert sweep(store) == []
    assert store.client.exists(store.prefix + "leases") == 0


# -- cancel ---------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    assert store.cancel(job, text="cancelled by ada@laptop") is State.CANCELLED
    record = store.get(job)
    assert (record.state, record.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    assert record.detail == "cancelled by ada@laptop"
    assert waiting(store) == [] and record.ended_ms is not None


def test_the_owner_of_a_running_job_is_asked(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    with store.subscribe(f"wish:{job}") as wishes:
        assert store.cancel(job, text="cancelled by ada@laptop") is State.RUNNING
        await_news(wishes, "cancel", 10.0)
    assert driver.report(job, epoch) == "cancel"
    assert store.cancel(job, text="cancelled by ada@laptop") is State.RUNNING
    assert [event.text for event in store.get(job).history].count("cancelled by ada@laptop") == 1
    assert store.move(job, cancelled(epoch, text="cancelled by ada@laptop")) is State.CANCELLED
    assert store.get(job).wish == ""


@pytest.mark.parametrize("how", ["the box restarted", "its lease ran out"])
def test_a_wish_outlives_an_interruption(how: str, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    store.cancel(job, text="cancelled by ada@laptop")
    if how == "its lease ran out":
        driver.let_lease_run_out(job)
        sweep(store)
    else:
        assert store.move(job, ended(store.get(job), epoch, Reason.BOX_RESTARTED, "rebooted")) is State.CANCELLED
    record = store.get(job)
    assert (record.state, record.reason) == (State.CANCELLED, Reason.CANCELLED_BY_USER)
    assert record.detail.startswith("cancelled while interrupted: ")
    assert waiting(store) == [] and store.owned("box-a") == []


def test_an_end_cannot_be_cancelled(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    finish(store, job, driver.run(job))
    before = store.get(job)
    assert store.cancel(job, text="too late") is State.SUCCEEDED
    assert store.get(job) == before


def test_no_such_job_cannot_be_cancelled(store: Store) -> None:
    with pytest.raises(NotFound, match="nosuchjob"):
        store.cancel("nosuchjob", text="")
    assert store.client.exists(store.prefix + "job:nosuchjob") == 0


# -- what is kept is bounded ----------------------------------------------------------------------


def test_history_keeps_the_latest(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    for _ in range(70):
        epoch = driver.run(job)
        # As if a checkpoint had been saved in each.
        driver.report(job, epoch, fruitless=0)
        store.move(job, ended(store.get(job), epoch, Reason.BOX_RESTARTED, "rebooted"))
    history = store.get(job).history
    assert len(history) == 200
    assert (history[-1].state, history[-1].epoch) == (State.QUEUED, 70)


def test_the_log_keeps_its_last_bytes_and_counts_them_all(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    log = "".join(f"step {step}\n" for step in range(10_000))
    for start in range(0, len(log), 4096):
        driver.report(job, epoch, log=log[start : start + 4096])
    assert store.tail(job) == (log[-TAIL_BYTES:], len(log))
    assert int(store.client.memory_usage(store.prefix + f"tail:{job}") or 0) < 2 * TAIL_BYTES + 1024


@pytest.mark.parametrize("shift", range(4))
def test_the_log_is_never_cut_within_a_letter(shift: int, driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    log = "x" * shift + "抓🤖é" * 5000
    driver.report(job, epoch, log=log)
    text, total = store.tail(job)
    assert log.endswith(text) and total == len(log.encode())
    assert TAIL_BYTES - 4 < len(text.encode()) <= TAIL_BYTES


def test_a_job_without_a_log_has_an_empty_one(driver: JobDriver, store: Store) -> None:
    assert store.tail(driver.submit()) == ("", 0)


# -- names ----------------------------------------------------------------------------------------


def test_a_job_answers_to_its_id_a_prefix_of_it_and_its_name(driver: JobDriver, store: Store) -> None:
    job = driver.submit("抓盒子 №1", job_id="abc123abc123")
    driver.submit("other", job_id="def456def456")
    assert {store.resolve(word) for word in ("abc123abc123", "abc12", "abc1", "抓盒子 №1")} == {job}


def test_a_name_may_be_typed_with_either_kind_of_accent(driver: JobDriver, store: Store) -> None:
    job = driver.submit("caf\u00e9")
    assert store.resolve("cafe\u0301") == job


def test_a_part_of_a_name_is_none(driver: JobDriver, store: Store) -> None:
    driver.submit("grab_box", job_id="abc123abc123")
    for word in ("grab", "grab_box_2", "", "abc123abc1234", "ABC", "\0", "grab_box\0", "[i:", "*"):
        with pytest.raises(NotFound):
            store.resolve(word)


def test_a_short_id_that_could_mean_two_is_refused(driver: JobDriver, store: Store) -> None:
    driver.submit(job_id="abcd23abc123"), driver.submit(job_id="abcd56abc456")
    with pytest.raises(
        UsageError,
        match=r"could mean 2 jobs:\n  abcd23abc123  grab_box  queued  submitted .*\n  abcd56abc456 .*\nFix: give",
    ):
        store.resolve("abcd")


def test_beginning_of_an_id_has_at_least_four_characters(driver: JobDriver, store: Store) -> None:
    """Or else a slip of the finger cancels somebody's job."""
    driver.submit(job_id="abcd23abc123")
    assert store.resolve("abcd") == "abcd23abc123"
    with pytest.raises(NotFound, match="too short for the beginning of an id: give at least 4 characters"):
        store.resolve("abc")


def test_unknown_name_is_told_with_names_that_begin_so(driver: JobDriver, store: Store) -> None:
    driver.submit("act_cpu"), driver.submit("act_cpu"), driver.submit("act_long"), driver.submit("pi0")
    with pytest.raises(NotFound, match=r"Names that begin so: act_cpu, act_long\.$"):
        store.resolve("act")


def test_of_one_name_it_is_the_one_that_lives(driver: JobDriver, store: Store) -> None:
    old, new = driver.submit("grab_box"), driver.submit("grab_box")
    with pytest.raises(UsageError, match="could mean 2 jobs"):
        store.resolve("grab_box")
    store.cancel(new, text="")
    assert store.resolve("grab_box") == old
    store.cancel(old, text="")
    store.client.hincrby(store.prefix + f"job:{new}", "created_ms", 1)
    assert store.resolve("grab_box") == new


def test_stamps_say_which_jobs_changed(driver: JobDriver, store: Store) -> None:
    over, older, running, waiting = (driver.submit() for _ in range(4))
    store.cancel(older, text=""), store.cancel(over, text="")
    # Ends of one millisecond have no order of their own.
    store.client.zincrby(f"{store.prefix}ended", -1, older)
    epoch = driver.run(running)
    before = store.stamps(ended=1)
    assert set(before) == {over, running, waiting}
    for job in (running, waiting):
        # Changes of one millisecond have one stamp.
        store.client.hset(f"{store.prefix}job:{job}", "updated_ms", 1)
    driver.report(running, epoch, step=3)
    store.cancel(waiting, text="")
    after = store.stamps(ended=2)
    assert {job for job in after if after[job] != before.get(job)} == {running, waiting}
    assert [job.id for job in store.listed([running, "gone", waiting])] == [running, waiting]


def test_a_name_of_many_jobs_is_looked_up_without_their_records(
    driver: JobDriver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_references, "SLICE", 3)
    jobs = [driver.submit("grab_box", job_id=f"abcd0000000{index}") for index in range(10)]
    driver.submit("grab_box_2", job_id="abcde0000000")
    with pytest.raises(
        UsageError, match=r"'grab_box' could mean 10 jobs:\n  abcd00000000  (.*\n){5}  … and 5 more\nFix: give the id"
    ):
        store.resolve("grab_box")
    with pytest.raises(UsageError, match=r"'abcd' could mean 11 jobs:\n  abcd00000000  (.*\n){5}  … and 6 more"):
        store.resolve("abcd")
    for job in jobs[:-1]:
        store.cancel(job, text="")
    assert store.resolve("grab_box") == jobs[-1]
    store.cancel(jobs[-1], text="")
    store.client.hincrby(f"{store.prefix}job:{jobs[4]}", "created_ms", 60_000)
    monkeypatch.setattr(StoreReads, "_records", None)
    assert store.resolve("grab_box") == jobs[4]


def test_more_jobs_than_one_slice_are_listed_in_order(
    driver: JobDriver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_reads, "SLICE", 2)
    jobs = [driver.submit() for _ in range(5)]
    assert [job.id for job in store.page().jobs] == jobs


def test_a_name_goes_over_the_beginning_of_an_id_but_not_over_an_id(driver: JobDriver, store: Store) -> None:
    """Or else somebody's job named like the id of another would be cancelled in its stead."""
    job = driver.submit("grab_box", job_id="abc123abc123")
    short, whole = driver.submit("abc"), driver.submit("abc123")
    assert store.resolve("abc") == short
    assert store.resolve("abc123abc123") == job
    assert store.resolve(whole) == whole


# -- pages and boxes ------------------------------------------------------------------------------


def test_a_page_shows_the_living_and_then_the_latest_ends(driver: JobDriver, store: Store) -> None:
    jobs = [driver.submit() for _ in range(4)]
    for at, job in enumerate(jobs[:3]):
        store.cancel(job, text="")
        # Ends of one millisecond have no order of their own.
        store.client.zadd(store.prefix + "ended", {job: at + 1})
        store.client.hset(f"{store.prefix}job:{job}", "ended_ms", at + 1)
    page = store.page(live=1, ended=2)
    assert [job.id for job in page.jobs] == [jobs[3], jobs[2], jobs[1]]
    assert (page.counts.live, page.counts.ended) == (1, 3)
    assert [job.id for job in store.page(live=-1, ended=-1).jobs] == [jobs[3], jobs[2], jobs[1], jobs[0]]
    assert [job.id for job in store.page(ended=0).jobs] == jobs[3:]


def test_no_such_job(store: Store) -> None:
    with pytest.raises(NotFound, match="pi0q ls --all"):
        store.get("nosuchjob")


def test_a_box_says_what_it_has(store: Store) -> None:
    assert store.announce_box("autodl-1", "id-1", {"status": "idle", "gpus": [{"name": "H100"}]})
    assert store.announce_box("autodl-1", "id-1", {"status": "busy"})
    (box,) = store.boxes()
    assert (box["name"], box["status"], json.loads(box["gpus"])) == ("autodl-1", "busy", [{"name": "H100"}])
    assert 0 <= float(box["seen_seconds"]) < 60


def test_what_a_box_says_of_single_jobs_is_read_for_one_job(store: Store) -> None:
    told = refusals.dumps({"a1": [Problem(text="VRAM: é")], "b2": [Problem(text="disk"), Problem(text="trainer")]})
    plans = {"a1": {"items": [], "lacks_mib": 5}}
    store.announce_box("autodl-1", "id-1", {"refusals": told, "plans": json.dumps(plans), "status": "ready"})
    (box,), (about,), (whole,) = store.boxes(), store.boxes(about="a1"), store.boxes(about=EVERY_JOB)
    assert (box["refused"], "refusals" in box, "plans" in box, box["status"]) == ("2", False, False, "ready")
    assert refusals.loads(about["refusals"]) == {"a1": (Problem(text="VRAM: é"),)}
    assert json.loads(about["plans"]) == plans == json.loads(whole["plans"])
    assert refusals.loads(whole["refusals"]) == refusals.loads(told)
    (unknown,) = store.boxes(about="c3")
    assert (unknown["refusals"], unknown["plans"], unknown["refused"]) == ("{}", "{}", "2")


def test_a_box_says_anew_what_it_refuses_and_keeps_what_it_does_not_mention(store: Store) -> None:
    store.announce_box("autodl-1", "id-1", {"refusals": refusals.dumps({"a1": [Problem(text="x")]}), "plans": "{}"})
    store.announce_box("autodl-1", "id-1", {"status": "ready"})
    assert store.boxes()[0]["refused"] == "1"
    store.announce_box("autodl-1", "id-1", {"refusals": refusals.dumps({"b2": [Problem(text="y")]})})
    assert refusals.loads(store.boxes(about=EVERY_JOB)[0]["refusals"]) == {"b2": (Problem(text="y"),)}
    store.announce_box("autodl-1", "id-1", {"refusals": "{}"})
    assert store.boxes()[0]["refused"] == "0"


def test_a_box_of_the_version_before_keeps_all_in_its_own_hash(store: Store) -> None:
    old = refusals.dumps({"a1": [Problem(text="x")], "b2": [Problem(text="y")]})
    store.announce_box("autodl-1", "id-1", {"status": "ready"})
    store.client.hset(f"{store.prefix}box:autodl-1", "refusals", old)
    (box,) = store.boxes(about="a1")
    assert refusals.loads(box["refusals"])["a1"] == (Problem(text="x"),) and box["refused"] == "2"
    store.announce_box("autodl-1", "id-1", {"refusals": "{}"})
    assert store.boxes()[0]["refused"] == "0"


def test_a_box_keeps_its_name_from_another_while_it_lives(store: Store) -> None:
    assert store.announce_box("autodl-1", "id-1", {})
    assert not store.announce_box("autodl-1", "id-2", {"status": "idle"})
    assert "status" not in store.boxes()[0]
    store.client.zadd(store.prefix + "boxes", {"autodl-1": store.now_ms() - 61_000})
    assert store.announce_box("autodl-1", "id-2", {"status": "idle"})


def test_a_box_that_restarts_takes_its_entry_at_once(store: Store) -> None:
    assert store.announce_box("autodl-1", "id-1", {"status": "ready"}, boot="first")
    again = store.announce_box("autodl-1", "id-1", {"status": "ready"}, boot="second")
    assert again and again.displaced and not again.copy_found
    assert store.boot_of("autodl-1") == "second"
    same = store.announce_box("autodl-1", "id-1", {}, boot="second")
    assert same and not same.displaced
    third = store.announce_box("autodl-1", "id-1", {}, boot="third")
    assert third and third.displaced, "each restart is one"


def test_a_restart_long_after_the_last_heartbeat_displaces_nobody(store: Store) -> None:
    store.announce_box("autodl-1", "id-1", {"status": "ready"}, boot="first")
    store.client.zadd(store.prefix + "boxes", {"autodl-1": store.now_ms() - 61_000})
    again = store.announce_box("autodl-1", "id-1", {}, boot="second")
    assert again and not again.displaced
    store.announce_box("autodl-1", "id-1", {"status": "stopped"}, boot="second")
    stopped = store.announce_box("autodl-1", "id-1", {}, boot="third")
    assert stopped and not stopped.displaced


def test_a_copy_is_refused_once_the_original_is_heard_again(store: Store) -> None:
    store.announce_box("autodl-1", "id-1", {"status": "ready", "note": "the original"}, boot="first")
    store.announce_box("autodl-1", "id-1", {"note": "the copy"}, boot="copy")
    heard_again = store.announce_box("autodl-1", "id-1", {"note": "the original"}, boot="first")
    assert heard_again and heard_again.copy_found
    for _ in range(2):
        with pytest.raises(CopyRuns):
            store.announce_box("autodl-1", "id-1", {"note": "the copy"}, boot="copy")
    assert store.boxes()[0]["note"] == "the original"
    # The original may still train for the length of a lease after its last heartbeat.
    store.client.zadd(store.prefix + "boxes", {"autodl-1": store.now_ms() - 61_000})
    with pytest.raises(CopyRuns):
        store.announce_box("autodl-1", "id-1", {}, boot="copy")
    store.client.zadd(store.prefix + "boxes", {"autodl-1": store.now_ms() - 601_000})
    assert store.announce_box("autodl-1", "id-1", {}, boot="copy")


def test_a_third_copy_is_found_as_well(store: Store) -> None:
    for boot in ("first", "copy", "first", "another", "first"):
        store.announce_box("autodl-1", "id-1", {"status": "ready"}, boot=boot)
    assert store.boot_of("autodl-1") == "first"
    with pytest.raises(CopyRuns):
        store.announce_box("autodl-1", "id-1", {}, boot="another")


# -- words on the channels ------------------------------------------------------------------------


def test_whatever_changes_is_said(driver: JobDriver, store: Store) -> None:
    with store.subscribe("changes", "wake:box-a", "wake") as words:

        def said(act: Callable[[], object]) -> list[str]:
            act()
            return list(heard(words, 10.0))

        job = "abc123abc123"
        store.next_candidates("box-a", (92160,), ScanPosition())
        assert said(lambda: driver.submit(job_id=job)) == [job, job]
        assert said(lambda: driver.claim(job)) == [job]
        assert said(lambda: driver.report(job, 1, step=1)) == [job]
        # Given up: the box is woken because of what it held.
        assert said(lambda: store.move(job, ended(store.get(job), 1, Reason.RUNNER_LOST, ""))) == ["room", job]
        assert said(lambda: store.announce_box("autodl-1", "id-1", {})) == ["box:autodl-1"]
        store.claim(job, Claimant(box="b", boot="1", lease_seconds=9), Reservation(), text="")


def test_a_mere_renewal_is_not_said(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    with store.subscribe("changes") as words:
        driver.report(job, epoch)
        driver.submit(job_id="af7e40000000")
        assert list(heard(words, 10.0)) == ["af7e40000000"]


def test_news_of_one_job_are_waited_for_but_not_for_ever(store: Store, driver: JobDriver) -> None:
    with store.subscribe("changes") as words:
        await_news(words, "nosuchjob", 0.05)
        driver.submit(job_id="abc123abc123")
        await_news(words, "abc123abc123", 10.0)


def test_wait_for_words_ends_when_its_process_has_to_stop(store: Store) -> None:
    stopping = threading.Event()
    with store.subscribe("changes") as words:
        stopping.set()
        # Without words, and long before the hour is over.
        assert not await_news(words, None, 3600.0, stopping)


def test_other_prefixes_are_other_queues(driver: JobDriver, store: Store, connect: Callable[[], redis.Redis]) -> None:
    job = driver.submit()
    other = Store(connect(), prefix=store.prefix + "other:")
    assert (other.waiting(), other.page().jobs) == ([], ())
    with pytest.raises(NotFound):
        other.get(job)


def test_every_key_is_below_the_prefix_and_in_the_glossary(driver: JobDriver, store: Store) -> None:
    store.announce_box("box-a", "id-1", {})
    job = driver.submit()
    driver.submit(), store.cancel(driver.submit(), text="")
    driver.report(job, driver.run(job, promises=[("GPU-1", 0, 5)]), log="words")
    sweep(store)
    store.next_candidates("box-a", (1,), ScanPosition())
    store.next_candidates("box-b", (92160,), replace(ScanPosition(), place="+inf", change=99, free=(92160,)))
    driver.submit(box="box-a")
    known = {"job", "history", "tail", "live", "ended", "lookup", "leases", "owned", "promises", "boxes", "box",
             "jobs", "swept", "server", "waiting", "class", "classes", "order", "news", "unchecked", "former", "spots",
             "idle", "calls"}  # fmt: skip
    kinds = set()
    for key in store.client.scan_iter(f"{store.prefix}*"):
        kind = str(key).removeprefix(store.prefix).partition(":")[0].partition(".")[0].partition("\x06")[0]
        kinds.add(kind)
    assert kinds == known


def test_a_rest_is_known_to_who_looks_for_jobs(driver: JobDriver, store: Store) -> None:
    """Without it a box would claim a job that rests again at once, for as long as the network is away."""
    driver.submit(rest_seconds=60.0)
    assert [job.rest_seconds for job in store.waiting()] == [60.0]


def test_a_wandb_run_that_gave_way_to_another_is_kept_in_the_history(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    driver.report(job, epoch, wandb_run_id="pi0q-a")
    driver.report(job, epoch, wandb_run_id="pi0q-a", wandb_url="https://wandb.ai/e/p/runs/pi0q-a")
    before = len(store.get(job).history)
    for _ in range(2):
        driver.report(job, epoch, wandb_run_id="pi0q-a.2", wandb_url="https://wandb.ai/e/p/runs/pi0q-a.2")
    known = store.get(job)
    assert (known.wandb_run_id, len(known.history)) == ("pi0q-a.2", before + 1)
    told = "https://wandb.ai/e/p/runs/pi0q-a was deleted at WandB: it goes on as pi0q-a.2"
    assert known.history[-1].text == told


def test_what_nobody_compared_with_the_hub_stands_in_the_history_once(driver: JobDriver, store: Store) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    before = len(store.get(job).history)
    for _ in range(2):
        driver.report(job, epoch, uncompared={"lerobot/pi0": "c0ffee00" * 5})
    known = store.get(job)
    assert (known.uncompared, len(known.history)) == ({"lerobot/pi0": "c0ffee00" * 5}, before + 1)
    assert known.history[-1].text == "lerobot/pi0 came from ModelScope (its commit c0ffee00), not compared with the Hub"


def test_a_waiting_job_comes_with_all_that_a_box_judges_it_by(store: Store, driver: JobDriver) -> None:
    job = driver.submit(continues="b" * 12, kept_steps=[10], disk_plan={"checkpoint_mib": 5}, lerobot="0.6.1")
    (waiting,) = store.waiting()
    known = store.get(job)
    told = ("continues", "pinned_steps", "disk_plan", "lerobot", "pins", "preflight", "needs", "spec", "queued_ms")
    assert [getattr(waiting, name) for name in told] == [getattr(known, name) for name in told]
    assert (waiting.continues, waiting.pinned_steps) == ("b" * 12, (10,))


def test_what_was_seen_of_an_end_is_known_of_every_listed_job(store: Store, driver: JobDriver) -> None:
    """A restarted Flower, and `pi0q ls --json`, tell the cure of the case as `pi0q show` does."""
    job = driver.submit()
    epoch = driver.run(job)
    found = {"reason": "cuda_out_of_memory", "cure": "In the file: batch_size: 16 (is 32)."}
    last = ended(store.get(job), epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory", evidence=found)
    store.move(job, last)
    assert [listed.fix for listed in store.page().jobs] == [found["cure"]] == [store.get(job).fix]
