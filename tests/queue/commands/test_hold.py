"""`pi0q hold`, `release` and `bump`: a user decides when a job's turn comes."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver


def waiting(store: Store) -> list[str]:
    return [job.id for job in store.waiting()]


def test_a_held_job_leaves_the_queue_and_comes_back_to_its_place(
    call: Command, store: Store, driver: JobDriver
) -> None:
    first, second = driver.submit("first"), driver.submit("second")
    assert call("hold", "first").stdout == f"first is held. To let it go on: pi0q release {first}\n"
    held = store.get(first)
    assert (held.state, held.reason) == (State.WAITING, Reason.HELD)
    assert waiting(store) == [second] and driver.try_claim(first) == "gone"
    assert store.sweep(every_seconds=0.0) == [] and waiting(store) == [second]
    shown = call("show", "first").stdout
    assert "held by " in shown and f"pi0q release {first}" in shown
    assert call("release", "first").stdout == "first is queued again, in its old place.\n"
    assert waiting(store) == [first, second] and store.get(first).reason is None


def test_a_running_one_is_saved_and_then_waits(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    assert "it saves a checkpoint and releases its GPU" in call("hold", job).stdout
    assert driver.report(job, epoch) == "stop"
    assert "saving, to be held" in call("ls").stdout
    store.move(job, transition.ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved and stopped"))
    held = store.get(job)
    assert (held.state, held.reason, held.attempt) == (State.WAITING, Reason.HELD, 0)
    assert held.detail.startswith("held by ") and held.detail.endswith(": saved and stopped")
    assert waiting(store) == [] and store.owned("box-a") == []
    call("release", job)
    assert driver.claim(job) == epoch + 1


def test_one_whose_box_dies_before_it_could_save_waits_all_the_same(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    driver.run(job)
    store.hold(job, text="by ada@laptop")
    driver.let_lease_run_out(job)
    store.sweep(every_seconds=0.0)
    assert store.get(job).state is State.WAITING and waiting(store) == []


def test_one_that_is_released_before_it_was_saved_goes_on(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    call("hold", job)
    assert "queued again as soon as that is done" in call("release", job).stdout
    store.move(job, transition.ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved and stopped"))
    assert store.get(job).state is State.QUEUED and waiting(store) == [job]


def test_what_makes_no_sense_changes_nothing_and_is_told(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    assert call("release", job).stdout == "grab_box is not held; nothing was changed.\n"
    call("hold", job)
    assert "is held already" in call("hold", job).stdout
    unknown = call("hold", job, "nobody")
    assert unknown.returncode == 3
    assert "is cancelled" in call("cancel", job).stdout
    for verb in ("hold", "release"):
        assert call(verb, job).stdout == "grab_box has ended (cancelled); nothing was changed.\n"
    assert store.get(job).state is State.CANCELLED


def test_a_cancel_weighs_more_than_a_hold(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    call("hold", job)
    call("cancel", job)
    assert "being cancelled" in call("hold", job).stdout
    assert driver.report(job, epoch) == "cancel"
    store.move(job, transition.ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved and stopped"))
    assert store.get(job).state is State.CANCELLED


def test_as_json(call: Command, driver: JobDriver) -> None:
    job = driver.submit()
    told = json.loads(call("hold", job, "--json").stdout)
    assert told["state"] == "waiting" and told["held"].startswith("by ")
    assert json.loads(call("release", job, "--json").stdout) == {"id": job, "state": "queued", "held": ""}
    bumped = json.loads(call("bump", job, "--priority", "high", "--json").stdout)
    assert bumped == {"id": job, "state": "queued", "priority": "high"}


def test_a_bumped_job_comes_before_the_others_and_behind_its_new_equals(
    call: Command, store: Store, driver: JobDriver
) -> None:
    one, two, high = driver.submit("one"), driver.submit("two"), driver.submit("three", priority="high")
    said = call("bump", "two", "--priority", "high").stdout
    assert said == "two is high now, behind those that were high before it.\n"
    assert waiting(store) == [high, two, one]
    assert "made it high (was normal)" in store.get(two).history[-1].text
    assert "high already" in call("bump", "two", "--priority", "high").stdout


@pytest.mark.parametrize("held", [False, True])
def test_a_running_one_comes_back_with_its_new_priority(
    call: Command, store: Store, driver: JobDriver, held: bool
) -> None:
    job, other = driver.submit(), driver.submit("other")
    epoch = driver.run(job)
    assert "whenever it waits" in call("bump", job, "--priority", "low").stdout
    if held:
        store.hold(job, text="by ada@laptop")
    store.move(job, transition.ended(store.get(job), epoch, Reason.STOPPED_BY_BOX, "saved and stopped"))
    store.release(job)
    assert waiting(store) == [other, job]


def test_an_unknown_priority_is_refused(call: Command, driver: JobDriver) -> None:
    said = call("bump", driver.submit(), "--priority", "asap")
    assert said.returncode == 2 and "'urgent'" in said.stderr


def test_a_reason_of_a_newer_pi0q_keeps_no_one_from_reading(store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    store.client.hset(f"{store.prefix}job:{job}", mapping={"reason": "eaten_by_a_dog", "detail": "woof"})
    known = store.get(job)
    assert (known.reason, known.detail) == (None, "woof")
