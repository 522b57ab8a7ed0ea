"""A box on a real queue: what it claims, what it takes back after a restart, what it leaves alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.outcome import Reason
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent import Agent
from pi0q.workers.box import Box
from pi0q.workers.interpreter import NoTrainer
from pi0q.workers.launcher import CannotStart
from pi0q.workers.run.order import Order

from ..conftest import Command, Hands
from .conftest import a_box, own_queue, submit

# -- taking jobs


def test_it_claims_up_to_its_slots_and_promises_what_it_claims(box: Box, store: Store) -> None:
    jobs = [submit(store, gib=20) for _ in range(3)]
    box.claim()
    assert [store.get(job).state for job in jobs] == [State.CLAIMED, State.CLAIMED, State.QUEUED]
    assert own_queue(box) == [jobs[1], jobs[0]]
    assert store.promises(["gpu:FAKE-box-a-0"])["gpu:FAKE-box-a-0"][1] == dict.fromkeys(jobs[:2], 20 * 1024)


def test_it_says_in_the_history_what_it_measured(box: Box, store: Store) -> None:
    job = submit(store)
    box.claim()
    text = store.get(job).history[-1].text
    assert text.startswith("measured simulated with 80.0 of 80.0 GiB free (simulated); disk ")


def test_a_promise_made_meanwhile_by_another_is_seen(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between measuring and claiming someone else is promised 60 GiB of the same card."""
    job, promises = submit(store, gib=30), store.promises

    def slow(resources: list[str]) -> Any:
        seen = promises(resources)
        if not store.client.exists(f"{store.prefix}promises:{resources[0]}"):
            store.client.hset(f"{store.prefix}promises:{resources[0]}", mapping={"other": 60 * 1024, "#": 1})
        return seen

    monkeypatch.setattr(store, "promises", slow)
    box.claim()
    assert store.get(job).state is State.QUEUED
    assert "60.0 GiB more are promised" in box.refusals[job]


def test_a_checkpoint_that_another_lerobot_made_is_left_to_a_box_that_reads_it(box: Box, store: Store) -> None:
    job = submit(store)
    saved = {"step": 5, "path": "/runs/x/000005", "manifest": "ab", "bytes": 1}
    store.client.hset(f"{store.prefix}job:{job}", mapping={"checkpoint": json.dumps(saved), "lerobot": "0.4.4"})
    box.claim()
    assert store.get(job).state is State.QUEUED
    assert box.refusals[job] == "LeRobot 0.6.1 here can't read the configuration in its checkpoint, which 0.4.4 made"
    store.client.hset(f"{store.prefix}job:{job}", "lerobot", "0.6.0")
    box.claim()
    assert store.get(job).state is State.CLAIMED


def test_a_spec_that_was_written_past_submit_never_reaches_a_command_line(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit(spec={"name": "x", "train": {"output_dir": "/etc"}}, needs={"gpus": 0, "disk_mib": 1})
    box.claim()
    assert store.get(job).state is State.QUEUED
    assert box.refusals[job].startswith("its spec is not valid: ")


def test_without_a_trainer_it_takes_nothing(box: Box, store: Store) -> None:
    box.trainer = NoTrainer(why="no LeRobot found")
    job = submit(store)
    box.claim()
    assert box.refusals == {job: "trainer: no LeRobot found"}


def test_two_boxes_of_one_name_are_told_apart(box: Box, chosen: Settings, store: Store) -> None:
    box.announce()
    other = a_box(chosen, store, "elsewhere")
    other.presence.identity = replace(other.identity, name="box-a")
    with pytest.raises(UsageError, match="Another machine is the box box-a; this worker takes nothing"):
        other.announce()
    box.announce()


def test_a_drain_is_heard_and_told_at_once(box: Box, store: Store, call: Command) -> None:
    """Not at the next beat, 10 s later."""
    agent = Agent(box, give_up=print)
    agent.announce()
    agent._waking, agent._next_beat = store.subscribe("wake"), float("inf")
    call("drain", "box-a")
    with agent._waking:
        agent.sleep()
    agent.beat()
    assert store.boxes()[0]["status"] == "drained"


def test_its_last_word_is_that_it_stopped(box: Box, store: Store) -> None:
    """Whatever its agent was about to say."""
    box.announce()
    box.stopping.set()
    box.announce(status="stopped")
    box.announce()
    assert store.boxes()[0]["status"] == "stopped"


# -- seeing them through


def test_a_job_that_is_not_its_own_is_left_alone(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit()
    hands.claim(job, "box-b")
    assert box.attend(job) is None
    assert store.get(job).state is State.CLAIMED


def test_a_runner_that_cannot_start_is_an_interruption(box: Box, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(order: object) -> None:
        raise CannotStart("a runner could not be started: see the worker's log")

    monkeypatch.setattr(box.launcher, "launch", launch)
    job = submit(store)
    box.claim()
    began = time.monotonic()
    record = box.attend(job)
    assert record and (record.state, str(record.reason), record.attempt) == (State.QUEUED, "runner_lost", 0)
    assert record.detail == "a runner could not be started: see the worker's log"
    assert record.fruitless == 0
    # The next claim would fare no better: the box pauses, longer each time, and says why.
    assert box._pause_until > began
    box._pause_until = float("inf")
    box.claim()
    assert box.refusals == {job: "runners do not start on this box: see its worker's log"}
    box.announce()
    assert "runners do not start on this box" in store.boxes()[0]["note"]
    box._pause_until = 0.0
    box.claim()
    assert store.get(job).state is State.CLAIMED


def test_a_claim_renewed_while_the_last_one_ends_is_attended(
    box: Box, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the first epoch is not through yet when the message of the second comes."""
    orders: list[int] = []

    class Ended:
        def wait(self, _: float) -> None:
            return None

    def launch(order: Order) -> Ended:
        orders.append(order.epoch)
        return Ended()

    monkeypatch.setattr(box.launcher, "launch", launch)
    job = submit(store)
    box.claim()
    box.attended.add((job, 1))
    assert box.attend(job) is None and orders == []
    box.settle(job, 1, Reason.RUNNER_LOST, "its runner died")
    box.claim()
    box.attend(job)
    assert orders == [2]
    assert box.attended == {(job, 1)}


def test_a_settled_job_is_not_settled_twice(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    box.settle(job, epoch, Reason.RUNNER_LOST, "its runner died")
    again = hands.run(job)
    record = box.settle(job, epoch, Reason.RUNNER_LOST, "its runner died")
    assert (record.state, record.epoch) == (State.RUNNING, again)


def test_what_flower_shows_of_it(box: Box) -> None:
    shown = box.info()["pi0q"]
    assert shown["gpu0"] == "simulated | VRAM free 80.0/80.0 GiB | simulated"
    assert shown["slots"] == "0 of 2 in use"
    assert shown["LeRobot"] == "0.6.1 in /bin/false"
    assert Path(shown["data disk"].partition(" | ")[0]).is_dir()
