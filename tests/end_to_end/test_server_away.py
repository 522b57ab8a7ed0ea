"""The queue's server is killed: trainings go on, and what they have to say is said when it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


def test_at_the_end_of_a_run_the_result_is_told_later(frail: House) -> None:
    box = frail.box()
    job = frail.submit(steps=40)
    box.steps(job, 5)
    frail.server.kill()
    box.ended(job)
    frail.server.restart()
    done = frail.ends(job)
    assert (str(done.state), done.step, done.epoch, done.attempt) == ("succeeded", 40, 1, 1)
    assert len(box.lives(job)) == 1
    assert frail.promised() == 0


def test_before_the_trainer_starts_the_job_is_running_once_the_server_is_back(frail: House) -> None:
    box = frail.box(WITNESS_SERVER=str(frail.server.running.process.pid))
    job = frail.submit("cutoff", steps=150)
    box.steps(job, 2)
    frail.server.restart()
    done = frail.ends(job)
    assert (str(done.state), done.epoch, len(box.lives(job))) == ("succeeded", 1, 1)
    assert [str(event.state) for event in done.history] == [
        "queued", "claimed", "preparing", "running", "succeeded"
    ]  # fmt: skip


def test_while_a_worker_is_idle_it_takes_jobs_again(frail: House) -> None:
    box = frail.box()
    assert str(frail.ends(frail.submit(steps=2)).state) == "succeeded"
    frail.server.kill()
    box.says("running trainings go on, trying again")
    frail.server.restart()
    assert str(frail.ends(frail.submit(steps=2)).state) == "succeeded"


def test_a_worker_can_be_stopped_meanwhile_and_its_run_goes_on(frail: House) -> None:
    box = frail.box()
    job = frail.submit(steps=60)
    box.steps(job, 3)
    frail.server.kill()
    assert box.stop() == 0
    box.ended(job)
    frail.server.restart()
    done = frail.ends(job)
    assert (str(done.state), done.step, done.epoch) == ("succeeded", 60, 1)
