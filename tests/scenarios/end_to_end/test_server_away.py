"""The queue's server is killed: trainings go on, and what they have to say is said when it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Cluster


def test_at_the_end_of_a_run_the_result_is_told_later(killable_cluster: Cluster) -> None:
    box = killable_cluster.box()
    job = killable_cluster.submit(steps=40)
    box.steps(job, 5)
    killable_cluster.server.kill()
    box.ended(job)
    killable_cluster.server.restart()
    done = killable_cluster.ends(job)
    assert (str(done.state), done.step, done.epoch, done.attempt) == ("succeeded", 40, 1, 1)
    assert len(box.lives(job)) == 1
    assert killable_cluster.promised() == 0


def test_before_the_trainer_starts_the_job_is_running_once_the_server_is_back(killable_cluster: Cluster) -> None:
    box = killable_cluster.box(WITNESS_SERVER=str(killable_cluster.server.running.process.pid))
    job = killable_cluster.submit("cutoff", steps=150)
    box.steps(job, 2)
    killable_cluster.server.restart()
    done = killable_cluster.ends(job)
    assert (str(done.state), done.epoch, len(box.lives(job))) == ("succeeded", 1, 1)
    assert [str(event.state) for event in done.history] == [
        "queued", "claimed", "preparing", "running", "succeeded"
    ]  # fmt: skip


def test_while_a_worker_is_idle_it_takes_jobs_again(killable_cluster: Cluster) -> None:
    box = killable_cluster.box()
    assert str(killable_cluster.ends(killable_cluster.submit(steps=2)).state) == "succeeded"
    killable_cluster.server.kill()
    box.says("retrying, running trainings go on")
    killable_cluster.server.restart()
    assert str(killable_cluster.ends(killable_cluster.submit(steps=2)).state) == "succeeded"


def test_a_worker_can_be_stopped_meanwhile_and_its_run_goes_on(killable_cluster: Cluster) -> None:
    box = killable_cluster.box()
    job = killable_cluster.submit(steps=60)
    box.steps(job, 3)
    killable_cluster.server.kill()
    assert box.stop() == 0
    box.ended(job)
    killable_cluster.server.restart()
    done = killable_cluster.ends(job)
    assert (str(done.state), done.step, done.epoch) == ("succeeded", 60, 1)
