"""Rows 1, 2, 3, 35: a process of the box is killed, or must die."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, State
from tests.rig.cluster import gone, paused, send, wait
from tests.scenarios.faults.scenarios import FREQ, ONE_LIFE, begun, dies, flower, nothing_left, reasons, states, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    """A box whose worker lives at the end of each story."""
    return shared_cluster.box(slots=2)


def test_row_01_a_killed_worker_costs_the_run_nothing_and_the_next_one_finds_it(
    shared_cluster: Cluster, box: Box
) -> None:
    with flower(shared_cluster) as shown:
        job = begun(shared_cluster, box)
        # It has not done its last step before the new worker looks.
        with paused(box.trainer(job)):
            wait(lambda: shown(job)[-1:] == ["STARTED"], "STARTED in Flower")
            told = len(shown(job))
            box.kill()
            box.start().says(f"re-attached to the live runner {box.runner(job)} of {job}")
            wait(lambda: shown(job)[told:][-1:] == ["STARTED"], "STARTED in Flower, said by the new worker")
        done = went_on(shared_cluster, box, job, lives=1, resumed_at=0)
        wait(lambda: shown(job)[-1] == "SUCCESS", "SUCCESS in Flower")
    assert (done.attempt, done.epoch) == (1, 1)
    assert states(done) == f"queued {ONE_LIFE} succeeded"


def test_row_02_a_killed_trainer_goes_on_from_its_checkpoint_and_costs_an_attempt(
    shared_cluster: Cluster, box: Box
) -> None:
    job = begun(shared_cluster, box)
    send(signal.SIGKILL, box.trainer(job))
    done = went_on(shared_cluster, box, job)
    assert (done.attempt, done.epoch) == (2, 2)
    assert states(done) == f"queued {ONE_LIFE} queued {ONE_LIFE} succeeded"
    assert reasons(done) == ["trainer_killed", "finished"]
    assert done.history[4].text.startswith("something killed the trainer (SIGKILL) after step ")


def test_row_03_runner_and_trainer_killed_and_the_worker_goes_on_at_once(shared_cluster: Cluster, box: Box) -> None:
    job = begun(shared_cluster, box)
    runner, trainer = box.runner(job), box.trainer(job)
    killed_ms = shared_cluster.store.now_ms()
    send(signal.SIGKILL, runner, trainer)
    done = went_on(shared_cluster, box, job)
    assert (done.attempt, done.epoch) == (1, 2)
    assert states(done) == f"queued {ONE_LIFE} queued {ONE_LIFE} succeeded"
    assert reasons(done) == ["runner_lost", "finished"]
    seen = done.history[4]
    assert seen.at_ms - killed_ms <= 60_000, "the worker saw it too late"


def test_row_03_a_killed_runner_takes_its_trainer_along(shared_cluster: Cluster, box: Box) -> None:
    job = begun(shared_cluster, box)
    trainer = box.trainer(job)
    send(signal.SIGKILL, box.runner(job))
    dies(trainer)
    # The witness found nothing of the job alive when the second trainer began: the first had ended by then.
    done = went_on(shared_cluster, box, job)
    assert (done.attempt, done.epoch, reasons(done)) == (1, 2, ["runner_lost", "finished"])


def stray_of(box: Box, job: str) -> int:
    """The grandchild that the job's trainer left; it began before the first step."""
    return int((box.home / "lives" / f"{job}.stray").read_text())


def cancelled(cluster: Cluster, job: str) -> Record:
    cluster.store.cancel(job, text="cancelled by a test")
    record = cluster.ends(job)
    assert (str(record.state), reasons(record)) == ("cancelled", ["cancelled_by_user"])
    assert cluster.store.owned("box-a") == []
    nothing_left(cluster, job)
    return record


@pytest.mark.parametrize("kind", ["stray", "ghost"])
def test_row_35_a_cancel_ends_a_grandchild_that_left_its_session(shared_cluster: Cluster, box: Box, kind: str) -> None:
    job = shared_cluster.submit(kind, gib=0, steps=10_000)
    box.steps(job, 2)
    stray = stray_of(box, job)
    try:
        assert not gone(stray) and os.getsid(stray) == stray
        cancelled(shared_cluster, job)
        assert gone(stray)
    finally:
        send(signal.SIGKILL, stray)


@pytest.mark.parametrize("kind", ["stray", "ghost"])
def test_row_35_the_end_of_a_killed_run_ends_them_as_well(shared_cluster: Cluster, box: Box, kind: str) -> None:
    job = begun(shared_cluster, box, kind)
    stray = stray_of(box, job)
    try:
        send(signal.SIGKILL, box.runner(job))
        dies(stray)
        went_on(shared_cluster, box, job)
        dies(stray_of(box, job))
    finally:
        send(signal.SIGKILL, stray, stray_of(box, job))


def test_row_35_a_cancel_at_the_moment_of_the_end_gives_one_end(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(steps=FREQ)
    box.steps(job, FREQ)
    shared_cluster.store.cancel(job, text="too late, perhaps")
    shared_cluster.ends(job)
    # Whatever is still under way has ended when the next job has.
    assert shared_cluster.ends(shared_cluster.submit(steps=2)).state is State.SUCCEEDED
    record = shared_cluster.store.get(job)
    assert len([event for event in record.history if event.state in ENDED]) == 1
    nothing_left(shared_cluster, job)
