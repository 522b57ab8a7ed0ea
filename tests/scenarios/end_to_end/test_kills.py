"""SIGKILL at bad moments: the job goes on from its last good checkpoint, one copy of it. See also tests/faults."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from tests.rig.cluster import send
from tests.scenarios.faults.scenarios import FREQ, STEPS, begun, went_on

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    """A box whose worker lives at the end of each story that uses it."""
    return shared_cluster.box(slots=2)


def test_a_trainer_killed_before_its_first_checkpoint_starts_again_from_nothing(
    shared_cluster: Cluster, box: Box
) -> None:
    shared_cluster.slow_down(5)
    job = shared_cluster.submit(steps=STEPS, save_freq=STEPS)
    box.steps(job, 5)
    os.kill(box.lives(job)[0]["pid"], signal.SIGKILL)
    done = went_on(shared_cluster, box, job, resumed_at=0)
    assert done.attempt == 2


def test_a_kill_during_a_save_leaves_the_checkpoint_before_it(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(f"killsave@{FREQ + 1}", steps=STEPS, save_freq=FREQ)
    done = shared_cluster.ends(job)
    # The same happens to each attempt, so the job fails in the end, with its good checkpoint kept.
    assert (str(done.state), str(done.reason), done.attempt) == ("failed", "trainer_killed", 3)
    assert [event["step"] for event in box.events(job, "ready")] == [0, FREQ, FREQ]
    assert done.checkpoint and done.checkpoint.step == FREQ
    box.trainers_came_one_by_one(job)


def test_a_run_that_ended_while_no_worker_lived_is_not_run_again(shared_cluster: Cluster, box: Box) -> None:
    job = begun(shared_cluster, box)
    box.kill()
    done = went_on(shared_cluster, box, job, lives=1, resumed_at=0)
    box.start()
    after = shared_cluster.ends(shared_cluster.submit(steps=2))
    assert after.state is State.SUCCEEDED
    assert shared_cluster.store.get(job) == done


def test_a_worker_that_stops_leaves_no_runner_waiting(shared_cluster: Cluster, box: Box) -> None:
    shared_cluster.ends(shared_cluster.submit(steps=2))
    assert box.stop() == 0
    assert box.processes() == []
    box.start()


def test_a_lost_runner_with_a_stalled_trainer_never_writes_again(cluster: Cluster) -> None:
    """A runner that sleeps beyond its lease (a paused machine) finds that another claim was made, and stops."""
    box = cluster.box(slots=2, PI0Q_LEASE_SECONDS="8")
    job = begun(cluster, box)
    first = box.runner(job)
    send(signal.SIGSTOP, first)
    cluster.until(job, cluster.sweeps(lambda record: any(str(e.reason) == "lease_expired" for e in record.history)))
    cluster.speed_up()
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.attempt) == ("succeeded", STEPS, 1)
    box.trainers_came_one_by_one(job)
