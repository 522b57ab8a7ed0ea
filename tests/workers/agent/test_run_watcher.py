"""The runs of a box: which it attends, and what follows from a runner that does not start."""

from __future__ import annotations

import time

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.jobs.transition import ended
from pi0q.queue.refusals import StartsFail
from pi0q.queue.store import Store
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.launcher import CannotStart
from pi0q.workers.runs.run_request import RunRequest
from tests.conftest import JobDriver
from tests.workers.conftest import refused, submit


def test_a_job_of_another_box_is_left_alone(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    driver.claim(job, "box-b")
    assert box.runs.attend(job) is None
    assert store.get(job).state is State.CLAIMED


def test_a_runner_that_cannot_start_is_an_interruption(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(order: object) -> None:
        raise CannotStart("a runner could not be started: see the worker's log")

    monkeypatch.setattr(box.launcher, "launch", launch)
    job = submit(store)
    box.claims.claim()
    began = time.monotonic()
    record = box.runs.attend(job)
    assert record and (record.state, str(record.reason), record.attempt) == (State.QUEUED, "runner_lost", 0)
    assert record.detail == "a runner could not be started: see the worker's log"
    assert record.runs_without_checkpoint == 0
    # The next claim would fare no better: the box pauses, longer each time, and says why.
    assert box.runs.start_failures._resume_at > began
    box.runs.start_failures._resume_at = float("inf")
    box.claims.claim()
    assert box.claims.blocked == StartsFail() and refused(box, job) == str(StartsFail())
    box.announce()
    assert "runner processes keep exiting at start-up" in store.boxes()[0]["note"]
    box.runs.start_failures._resume_at = 0.0
    # As the agent says once the server has woken the box for it.
    box.claims.called = job
    box.claims.claim()
    assert store.get(job).state is State.CLAIMED


def test_a_renewed_claim_is_attended_while_the_last_one_ends(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the first epoch is not through yet when the message of the second comes."""
    orders: list[int] = []

    class Ended:
        def wait(self, _: float) -> None:
            return None

    def launch(order: RunRequest) -> Ended:
        orders.append(order.epoch)
        return Ended()

    monkeypatch.setattr(box.launcher, "launch", launch)
    job = submit(store)
    box.claims.claim()
    box.runs.attended.add((job, 1))
    assert box.runs.attend(job) is None and orders == []
    box.recovery.settle_run(job, 1, Reason.RUNNER_LOST, "its runner died")
    box.claims.called = job
    box.claims.claim()
    box.runs.attend(job)
    assert orders == [2]
    assert box.runs.attended == {(job, 1)}


class EndsAtOnce:
    def wait(self, _: float) -> None:
        return None


def test_a_claim_starts_its_runner_and_its_message_finds_it(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def launch(order: RunRequest) -> EndsAtOnce:
        started.append(order.epoch)
        return EndsAtOnce()

    monkeypatch.setattr(box.launcher, "launch", launch)
    box.context.on_claim = box.runs.start
    job = submit(store)
    box.claims.claim()
    assert started == [1] and box.runs.attended == set()
    record = box.runs.attend(job)
    assert started == [1], "the message starts no second one"
    assert record and record.state is State.QUEUED


def test_a_run_that_ended_before_its_message_came_is_told_by_it(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box.launcher, "launch", lambda order: EndsAtOnce())
    box.context.on_claim = box.runs.start
    job = submit(store)
    box.claims.claim()
    store.move(job, ended(store.get(job), 1, Reason.SPEC_REFUSED, "it was refused"))
    record = box.runs.attend(job)
    assert record and record.state is State.FAILED


def test_a_runner_that_does_not_start_with_its_claim_is_started_by_its_message(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(order: RunRequest) -> EndsAtOnce:
        raise CannotStart("a runner could not be started: see the worker's log")

    monkeypatch.setattr(box.launcher, "launch", launch)
    box.context.on_claim = box.runs.start
    job = submit(store)
    box.claims.claim()
    assert store.get(job).state is State.CLAIMED
    record = box.runs.attend(job)
    assert record and record.detail == "a runner could not be started: see the worker's log"


def test_a_settled_run_is_not_settled_twice(box: Box, store: Store, driver: JobDriver) -> None:
    job = driver.submit()
    epoch = driver.run(job)
    box.recovery.settle_run(job, epoch, Reason.RUNNER_LOST, "its runner died")
    again = driver.run(job)
    record = box.recovery.settle_run(job, epoch, Reason.RUNNER_LOST, "its runner died")
    assert (record.state, record.epoch) == (State.RUNNING, again)
