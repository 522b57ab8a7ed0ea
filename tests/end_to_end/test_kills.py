"""SIGKILL at bad moments: the job goes on from its last good checkpoint, one copy of it. See also tests/faults."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from tests.faults.tale import FREQ, STEPS, begun, went_on
from tests.rig.house import send

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Box, House


@pytest.fixture(scope="module")
def box(street: House) -> Box:
    """A box whose worker lives at the end of each story that uses it."""
    return street.box(slots=2)


def test_a_trainer_killed_before_its_first_checkpoint_starts_again_from_nothing(street: House, box: Box) -> None:
    street.slow_down(5)
    job = street.submit(steps=STEPS, save_freq=STEPS)
    box.steps(job, 5)
    os.kill(box.lives(job)[0]["pid"], signal.SIGKILL)
    done = went_on(street, box, job, resumed_at=0)
    assert done.attempt == 2


def test_a_kill_during_a_save_leaves_the_checkpoint_before_it(street: House, box: Box) -> None:
    job = street.submit(f"killsave@{FREQ + 1}", steps=STEPS, save_freq=FREQ)
    done = street.ends(job)
    # The same happens to each attempt, so the job fails in the end, with its good checkpoint kept.
    assert (str(done.state), str(done.reason), done.attempt) == ("failed", "trainer_killed", 3)
    assert [event["step"] for event in box.events(job, "ready")] == [0, FREQ, FREQ]
    assert done.checkpoint and done.checkpoint.step == FREQ
    box.trainers_came_one_by_one(job)


def test_a_run_that_ended_while_no_worker_lived_is_not_run_again(street: House, box: Box) -> None:
    job = begun(street, box)
    box.kill()
    done = went_on(street, box, job, lives=1, resumed_at=0)
    box.start()
    after = street.ends(street.submit(steps=2))
    assert after.state is State.SUCCEEDED
    assert street.store.get(job) == done


def test_a_worker_that_stops_leaves_no_runner_waiting(street: House, box: Box) -> None:
    street.ends(street.submit(steps=2))
    assert box.stop() == 0
    assert box.processes() == []
    box.start()


def test_a_lost_runner_with_a_stalled_trainer_never_writes_again(house: House) -> None:
    """A runner that sleeps beyond its lease (a paused machine) finds that another claim was made, and stops."""
    box = house.box(slots=2, PI0Q_LEASE_SECONDS="8")
    job = begun(house, box)
    first = box.runner(job)
    send(signal.SIGSTOP, first)
    house.until(job, house.sweeps(lambda record: any(str(e.reason) == "lease_expired" for e in record.history)))
    house.speed_up()
    done = house.ends(job)
    assert (str(done.state), done.step, done.attempt) == ("succeeded", STEPS, 1)
    box.trainers_came_one_by_one(job)
