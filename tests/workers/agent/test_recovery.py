"""After a death: what a box takes back, what it leaves alone, and what it tells a server that knows less."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from pi0q.workers.runs.ledger import Ending, Ledger
from tests.conftest import JobDriver
from tests.workers.conftest import a_box, at_work, own_queue, refused, submit


def written(box: Box, job: str, epoch: int, *, last: transition.Transition | None = None) -> Ledger:
    """The ledger that a runner of this job left, with its ending if it had come to one."""
    box.recovery.directory(job).path.mkdir(parents=True, exist_ok=True)
    ending = Ending.of(last) if last else None
    made = Ledger(job_id=job, epoch=epoch, box=box.name, boot="1", fields=box.context.store.raw(job), ending=ending)
    made.write(box.recovery.directory(job).ledger)
    return made


def states(store: Store, job: str) -> list[str]:
    return [str(event.state) for event in store.get(job).history]


# -- after the death of a runner, a worker, the box

# -- after a restart


def test_a_claimed_job_whose_message_is_lost_is_started(box: Box, store: Store) -> None:
    job = submit(store)
    box.claims.claim()
    store.client.delete(f"{store.prefix}box.box-a")
    box.recovery.reconcile(box.runs.attended)
    assert own_queue(box) == [], "it is fresh: its message may be on its way"
    box.recovery.reconcile(box.runs.attended, at_start=True)
    assert own_queue(box) == [job]


def test_a_live_runner_is_attached_to_again(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    at_work(box, job, epoch=epoch)
    store.client.delete(f"{store.prefix}box.box-a")
    box.recovery.reconcile(box.runs.attended, at_start=True)
    assert own_queue(box) == [job]
    assert store.get(job).state is State.RUNNING


@pytest.mark.parametrize("earlier", ["another epoch", "another process of that pid", "another boot"])
def test_a_tag_of_something_else_is_no_live_runner(box: Box, store: Store, driver: JobDriver, earlier: str) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    tag = at_work(box, job, epoch=epoch).pidfile
    changed = {
        "another epoch": {"epoch": epoch + 1},
        "another process of that pid": {"start_time": 1},
        "another boot": {"boot": "x"},
    }[earlier]
    tag.write_text(json.dumps(json.loads(tag.read_text()) | changed))
    written(box, job, epoch)
    box.recovery.reconcile(box.runs.attended, at_start=True)
    assert own_queue(box) == []
    assert store.get(job).state is State.QUEUED


def test_after_a_restart_of_the_box_its_jobs_are_in_the_queue_at_once(
    box: Box, store: Store, driver: JobDriver
) -> None:
    job = driver.submit()
    written(box, job, driver.run(job))  # under boot "1", which is not today's
    box.recovery.reconcile(box.runs.attended, at_start=True)
    record = store.get(job)
    assert (record.state, str(record.reason), record.attempt) == (State.QUEUED, "box_restarted", 0)
    assert store.owned("box-a") == []


def test_a_runner_that_died_with_its_worker_is_told_apart_from_a_restart(
    box: Box, store: Store, driver: JobDriver
) -> None:
    job = driver.submit()
    driver.run(job)
    store.client.hset(f"{store.prefix}job:{job}", "boot", box.context.identity.boot)
    box.recovery.reconcile(box.runs.attended, at_start=True)
    assert str(store.get(job).reason) == "runner_lost"


def test_jobs_that_a_thread_attends_are_left_to_it(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    box.runs.attended.add((job, epoch))
    box.recovery.reconcile(box.runs.attended)
    assert store.get(job).state is State.RUNNING


def test_a_job_of_another_machine_of_this_name_is_left_to_its_lease(box: Box, store: Store, driver: JobDriver) -> None:
    """It may be at work on it, cut off: to run it here as well would be to run it twice."""
    job = driver.submit()
    driver.run(job)
    box.recovery.reconcile(box.runs.attended, at_start=True)
    assert store.get(job).state is State.RUNNING
    driver.let_lease_run_out(job)
    store.sweep(every_seconds=0.001)
    assert str(store.get(job).reason) == "lease_expired"


def finished(store: Store, job: str, epoch: int) -> transition.Transition:
    return transition.ended(store.get(job), epoch, Reason.FINISHED, "reached step 10")


def test_a_run_that_was_finished_is_not_run_again_for_want_of_a_last_word(
    box: Box, store: Store, driver: JobDriver
) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    written(box, job, epoch, last=finished(store, job, epoch))
    assert box.recovery.reconcile(box.runs.attended, at_start=True) == []
    record = store.get(job)
    assert (record.state, str(record.reason), record.detail) == (State.SUCCEEDED, "finished", "reached step 10")


def test_it_is_finished_even_if_the_queue_never_heard_that_it_ran(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.claim(job)
    assert store.move(job, transition.preparing(epoch, attempt=1, run_dir="/data"))
    written(box, job, epoch, last=finished(store, job, epoch))
    box.recovery.reconcile(box.runs.attended, at_start=True)
    assert states(store, job) == ["queued", "claimed", "preparing", "running", "succeeded"]


def test_an_ending_of_an_earlier_epoch_says_nothing_of_this_one(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    first = driver.run(job)
    written(box, job, first, last=finished(store, job, first))
    box.recovery.settle_run(job, first + 1, Reason.RUNNER_LOST, "its runner died")
    assert store.get(job).state is State.RUNNING
    store.move(job, transition.ended(store.get(job), first, Reason.RUNNER_LOST, "its runner died"))
    driver.run(job)
    store.client.hset(f"{store.prefix}job:{job}", "boot", box.context.identity.boot)
    assert box.recovery.reconcile(box.runs.attended, at_start=True) == [job]
    assert str(store.get(job).reason) == "runner_lost"


def test_a_process_that_nothing_can_kill_keeps_the_box_from_new_jobs(
    box: Box, store: Store, driver: JobDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.announce()
    monkeypatch.setattr("pi0q.workers.host.process_tree.kill_all", lambda job, epoch: [4711])
    job = driver.submit()
    record = box.recovery.settle_run(job, driver.run(job), Reason.RUNNER_LOST, "its runner died")
    assert record.state is State.QUEUED
    (known,) = store.boxes()
    assert known["drain"] == "drain" and "4711 can't be killed" in known["drain_text"]


# -- its own jobs come first


def test_after_a_restart_its_own_job_comes_before_an_urgent_one(box: Box, store: Store) -> None:
    """Its checkpoint is here and nowhere else; the urgent one may have any box."""
    box.context.slots = 1
    own = submit(store)
    box.claims.claim()
    epoch = store.get(own).epoch
    store.move(own, transition.preparing(epoch, attempt=1, run_dir="/data"))
    urgent = submit(store, priority="urgent")
    again = a_box(box.context.settings, store, slots=1)
    again.announce()
    again.recover(at_start=True)
    again.claims.claim()
    assert (store.get(own).state, store.get(urgent).state) == (State.CLAIMED, State.QUEUED)
    assert again.recovery.least_epoch(own) == 0 and store.get(own).epoch == epoch + 1


def test_its_own_job_that_does_not_fit_now_is_waited_for_and_not_for_ever(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = submit(store, gib=200)
    other = submit(store)
    box.claims.resume([own])
    box.claims._reserved_until = float("inf")
    box.claims.claim()
    assert list(box.claims.refusals) == [own] and store.get(other).state is State.QUEUED
    box.claims._reserved_until = 0.0
    box.claims.claim()
    assert store.get(other).state is State.CLAIMED


def test_its_turn_is_not_lost_while_the_server_waits_for_other_boxes(box: Box, store: Store) -> None:
    own, urgent = submit(store, gib=200), submit(store, priority="urgent")
    box.claims.resume([own])
    box.claims._reserved_until = 0.0
    box.announce()
    # What a restarted server says until all boxes are back.
    store.client.hset(f"{store.prefix}server", "until", store.now_ms() + 60_000)
    box.claims.claim()
    assert "queue server restarted" in refused(box, urgent)
    store.client.hset(f"{store.prefix}server", "until", 0)
    box.claims.claim()
    assert store.get(urgent).state is State.QUEUED, "the own one may fit in a moment"


# -- a server that knows less


def older(store: Store, job: str, before: dict[str, str]) -> None:
    """Puts the job back to what the server knew before it was claimed."""
    key = f"{store.prefix}job:{job}"
    box = str(store.client.hget(key, "box"))
    store.client.delete(key)
    store.client.hset(key, mapping=dict(before))  # type: ignore[arg-type]
    store.client.srem(f"{store.prefix}owned:{box}", job)
    store.client.zrem(f"{store.prefix}leases", job)


def test_what_only_the_ledger_knows_is_told(box: Box, store: Store, driver: JobDriver) -> None:
    box.announce()
    jobs = {name: driver.submit(name) for name in ("lives", "over", "died", "late")}
    before = {job: store.raw(job) for job in jobs.values()}
    epochs = {job: driver.run(job) for job in jobs.values()}
    for job, epoch in epochs.items():
        last = finished(store, job, epoch) if job in (jobs["over"], jobs["late"]) else None
        written(box, job, epoch, last=last)
    assert store.move(jobs["over"], finished(store, jobs["over"], 1))
    at_work(box, jobs["lives"], epoch=epochs[jobs["lives"]])
    for job in jobs.values():
        older(store, job, before[job])
    assert box.recovery.replay() == [jobs["died"]]
    found = {name: store.get(job) for name, job in jobs.items()}
    assert {name: str(job.state) for name, job in found.items()} == {
        "lives": "running", "over": "succeeded", "died": "queued", "late": "succeeded"
    }  # fmt: skip
    assert str(found["died"].reason) == "box_restarted" and found["died"].epoch == 1
    assert found["lives"].box == "box-a"


def test_what_the_server_knows_better_is_left_alone(box: Box, store: Store, driver: JobDriver) -> None:
    box.announce()
    over, elsewhere = driver.submit(), driver.submit()
    for job in (over, elsewhere):
        epoch = driver.run(job)
        written(box, job, epoch)
        store.move(job, transition.ended(store.get(job), epoch, Reason.RUNNER_LOST, "its runner died"))
    driver.run(elsewhere, "box-b")
    store.cancel(over, text="cancelled")
    before = store.get(over), store.get(elsewhere)
    assert box.recovery.replay() == []
    assert (store.get(over), store.get(elsewhere)) == before


def test_a_damaged_ledger_and_one_of_another_name_are_passed_over(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    before = store.get(job)
    directory = at_work(box, job)
    directory.ledger.write_text("{")
    assert box.recovery.replay() == [] and box.recovery.least_epoch(job) == 0
    text = json.dumps({"job_id": job, "epoch": 7, "box": "box-z", "boot": "1", "fields": {}, "ending": None})
    directory.ledger.write_text(text)
    assert box.recovery.replay() == []
    assert store.get(job) == before
    assert box.recovery.least_epoch(job) == 8


def test_a_claim_is_under_a_higher_epoch_than_any_that_the_box_had(box: Box, store: Store) -> None:
    job = submit(store)
    written(box, job, 6)
    box.claims.claim()
    assert store.get(job).epoch == 7
