"""Rows 4, 5, 13, 14: the whole box crashes, is gone, stands still, or has another time of day."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from tests.faults.tale import (
    FREQ,
    STEPS,
    begun,
    claimed_at,
    manifests,
    moments,
    nothing_left,
    reasons,
    send,
    went_on,
)
from tests.rig import clock, machine
from tests.rig.house import gone, paused, wait

if TYPE_CHECKING:
    from tests.rig.house import Box, House


def boot_of(house: House, job: str) -> str:
    return house.store.raw(job)["boot"]


def beside(house: House, **env: str) -> Box:
    """Another box, ready for jobs; a machine takes a second for its start."""
    box = house.box("box-b", **env)
    box.says("Box box-b takes jobs")
    return box


@pytest.mark.skipif(bool(machine.refusal()), reason=f"no containers here: {machine.refusal()}")
def test_row_04_a_restarted_container_takes_its_own_job_back_before_an_urgent_one(house: House) -> None:
    box = house.box(contained=True)
    job = begun(house, box)
    before = boot_of(house, job)
    urgent = house.submit("urgent", priority="urgent", steps=2)
    box.crash()
    assert house.store.get(job).state is State.RUNNING, "nobody told the queue"
    started_ms = house.store.now_ms()
    box.start()
    done = went_on(house, box, job)
    # With the lease of 600 s: nothing was waited for.
    assert claimed_at(done, 2) - started_ms < 60_000
    assert (done.attempt, done.epoch, reasons(done)) == (1, 2, ["box_restarted", "finished"])
    assert boot_of(house, job) != before
    assert claimed_at(house.ends(urgent), 1) > claimed_at(done, 2)


def test_row_04_without_a_container_the_same_by_its_processes(house: House) -> None:
    box = house.box()
    job = begun(house, box)
    urgent = house.submit("urgent", priority="urgent", steps=2)
    box.crash()
    box.start()
    done = went_on(house, box, job)
    assert (done.attempt, done.epoch, reasons(done)) == (1, 2, ["runner_lost", "finished"])
    assert claimed_at(house.ends(urgent), 1) > claimed_at(done, 2)


def test_row_05_the_job_of_a_box_that_is_gone_starts_again_elsewhere_and_says_why(house: House) -> None:
    times = {"PI0Q_LEASE_SECONDS": "3", "PI0Q_WAIT_FOR_BOX": "2"}
    first = house.box("box-a", **times)
    job = begun(house, first)
    with paused(first.trainer(job)):
        second = beside(house, **times)
    first.crash()
    shutil.rmtree(first.home)
    house.boxes.remove(first)
    waits = house.until(job, lambda record: record.state is State.QUEUED)
    assert reasons(waits) == ["lease_expired"]
    assert "which may still take it" in house.refused(job, "box-b")
    done = went_on(house, second, job, lives=1, resumed_at=0)
    assert (done.box, done.epoch, done.attempt) == ("box-b", 2, 1)
    assert claimed_at(done, 2) - waits.updated_ms >= 2000
    warned = f"from step 0: its checkpoint of step {FREQ} is on box-a and no copy of it is here"
    assert warned in next(event.text for event in done.history if event.epoch == 2 and event.state is State.RUNNING)
    assert warned in second.trainer_log(job)
    assert warned in house.pi0q("show", job).stdout.replace("\n", " ")


@pytest.mark.parametrize("contained", [False, True], ids=["processes", "container"])
def test_row_13_a_box_that_stood_still_beyond_its_lease_lands_nothing(house: House, contained: bool) -> None:
    if contained and machine.refusal():
        pytest.skip(f"no containers here: {machine.refusal()}")
    times = {"PI0Q_LEASE_SECONDS": "3", "PI0Q_WAIT_FOR_BOX": "0"}
    first = house.box("box-a", contained=contained, **times)
    job = begun(house, first)
    trainer, runner = first.trainer(job), first.runner(job)
    send(signal.SIGSTOP, trainer)
    second = beside(house, **times)
    first.freeze()
    events, vouched = first.events(job), manifests(first, job)
    second.steps(job, 2)
    first.thaw()
    for pid in (trainer, runner):
        wait(lambda pid=pid: gone(pid), "the end of the old run")
    done = went_on(house, second, job, lives=1, resumed_at=0)
    assert (done.box, done.epoch, done.attempt, done.step) == ("box-b", 2, 1, STEPS)
    assert [event for event in first.events(job) if event not in events] == [], "the old trainer went on"
    assert manifests(first, job) == vouched
    assert reasons(done) == ["lease_expired", "finished"]
    # And it is a box again.
    second.stop()
    assert house.ends(house.submit(steps=2)).box == "box-a"


@pytest.mark.skipif(bool(clock.missing()), reason=clock.missing())
def test_row_14_a_wrong_clock_changes_nothing(house: House) -> None:
    right = house.box("right", PI0Q_LEASE_SECONDS="3")
    wrong = {
        2: house.box("fast", clock="+2h", PI0Q_LEASE_SECONDS="3"),
        -2: house.box("slow", clock="-2h", PI0Q_LEASE_SECONDS="3"),
    }
    # One for each box; each goes on for longer than a lease.
    jobs = [house.submit(steps=150, save_freq=50) for _ in range(3)]
    by_box = {record.box: record for record in map(house.ends, jobs)}
    assert set(by_box) == {"right", "fast", "slow"}
    for record in by_box.values():
        assert (str(record.state), record.epoch, record.attempt) == ("succeeded", 1, 1)
        nothing_left(house, record.id)
    for hours, box in wrong.items():
        record = by_box[box.name]
        assert len(box.trainers_came_one_by_one(record.id)) == 1
        assert moments(box, record.id)[-1] - time.time() == pytest.approx(hours * 3600, abs=60), "its clock is wrong"
        # What the queue knows is the server's time.
        assert abs(record.history[-1].at_ms / 1000 - time.time()) < 60
    assert len(right.trainers_came_one_by_one(by_box["right"].id)) == 1
