"""What Flower is told, folded by Celery's own State as Flower does it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from celery.events.state import State as CeleryState

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.state import ENDED, State
from pi0q.ops.flower.app import without_tasks
from pi0q.ops.flower.events import Published, events, result
from pi0q.ops.flower.feeder import Feeder

JOB = Record(
    id="5a5a5a5a5a5a",
    name="grab_box",
    state=State.QUEUED,
    priority="normal",
    submitter="someone@laptop",
    spec={},
    needs={"gpus": 1, "vram_mib": 92160, "disk_mib": 122880},
    created_ms=1_000_000,
    updated_ms=2_000_000,
)
SHOWN = {
    State.CLAIMED: "RECEIVED",
    State.PREPARING: "RECEIVED",
    State.RUNNING: "STARTED",
    State.SUCCEEDED: "SUCCESS",
    State.FAILED: "FAILURE",
    State.CANCELLED: "REVOKED",
}


def at(state: State, epoch: int) -> Record:
    """The job in a state under its n-th claim."""
    fields: dict[str, Any] = {"state": state, "epoch": epoch, "box": "box-a" if epoch else None}
    if state in (State.RUNNING, State.SUCCEEDED, State.FAILED):
        fields["started_ms"] = 3_000_000
    if state in ENDED:
        fields["ended_ms"] = 9_000_000
    if state is State.FAILED:
        fields |= {"reason": Reason.CUDA_OUT_OF_MEMORY, "detail": "tried to allocate 2 GiB"}
    return replace(JOB, **fields)


def shown(*records: Record) -> Any:
    """The task as Flower has it after it was told of each of these in turn."""
    flower, told = CeleryState(), None
    for record in records:
        for event in events(record, told):
            flower.event(event)
        told = Published(state=record.state, epoch=record.epoch)
    return flower.tasks[JOB.id]


LIFE = [
    at(State.QUEUED, 0),
    at(State.CLAIMED, 1),
    at(State.PREPARING, 1),
    at(State.RUNNING, 1),
    at(State.QUEUED, 1),
    at(State.CLAIMED, 2),
    at(State.PREPARING, 2),
    at(State.RUNNING, 2),
]


@pytest.mark.parametrize("end", sorted(ENDED))
@pytest.mark.parametrize("heard", [set(c) for n in range(4) for c in itertools.combinations(range(8), n)])
def test_whatever_was_missed_the_state_is_right(heard: set[int], end: State) -> None:
    """Any moments of a life with an interruption, then the end: right at every one of them."""
    told: list[Record] = []
    for index in sorted(heard):
        told.append(LIFE[index])
        task = shown(*told)
        expected = SHOWN.get(LIFE[index].state) or ("RETRY" if LIFE[index].epoch else "PENDING")
        assert task.state == expected
        assert (task.worker is not None) == (LIFE[index].epoch > 0)
    assert shown(*told, at(end, 2)).state == SHOWN[end]


def test_after_the_end_nothing_more_is_said() -> None:
    over = at(State.SUCCEEDED, 1)
    assert events(over, Published(state=over.state, epoch=1)) == []
    running = at(State.RUNNING, 1)
    assert events(running, Published(state=running.state, epoch=1)) == []


def test_a_job_cancelled_while_it_waits_again_was_not_received_again() -> None:
    kinds = [event["type"] for event in events(at(State.CANCELLED, 1), Published(state=State.QUEUED, epoch=1))]
    assert kinds == ["task-revoked"]


def test_it_started_when_the_trainer_did_whenever_flower_did() -> None:
    task = shown(at(State.RUNNING, 2))
    assert (task.sent, task.received, task.started) == (1000, 1000, 3000)


def test_name_needs_and_box_are_shown() -> None:
    task = shown(at(State.RUNNING, 1))
    assert (task.name, task.args) == ("pi0q.train", "grab_box")
    assert task.kwargs == "needs 1 GPU with 90 GiB, disk 120 GiB"
    assert (task.worker.hostname, task.client) == ("pi0q@box-a", "someone@laptop")


def test_an_old_event_is_no_sign_of_life() -> None:
    assert not shown(at(State.RUNNING, 1)).worker.alive
    assert shown(at(State.RUNNING, 1)).worker.heartbeats == []


def test_an_end_says_what_a_person_asks_next() -> None:
    saved = Saved(step=50000, path="/data/runs/x/checkpoints/050000", manifest="0" * 64, bytes=1)
    done = replace(at(State.SUCCEEDED, 1), step=50000, steps=50000, checkpoint=saved, wandb_url="https://w/x")
    task = shown(done)
    assert task.result == "step 50000/50000 100% · saved /data/runs/x/checkpoints/050000 · https://w/x"
    assert task.runtime == 6000
    failed = shown(at(State.FAILED, 1))
    assert failed.exception == "tried to allocate 2 GiB (cuda_out_of_memory)"
    assert failed.result == failed.exception
    assert "batch_size" in failed.traceback


def test_an_interruption_is_told_and_forgotten_at_the_next_start() -> None:
    waits = replace(at(State.QUEUED, 1), reason=Reason.BOX_RESTARTED, detail="box-a restarted")
    assert shown(LIFE[3], waits).exception == "box-a restarted (box_restarted)"
    assert shown(LIFE[3], waits, LIFE[5]).exception is None
    assert shown(waits).state == "RETRY"


def test_progress_is_one_line() -> None:
    job = replace(at(State.RUNNING, 1), step=120, steps=50000, loss=0.1234, eta_seconds=3780, phase="saving")
    assert result(job) == "step 120/50000 0% · loss 0.123 · 1h 3m left · saving"
    assert result(replace(job, wish="cancel")).endswith("cancelling")
    assert result(at(State.QUEUED, 0)) == "needs 1 GPU with 90 GiB, disk 120 GiB"
    assert result(at(State.SUCCEEDED, 1)) == ""


@pytest.fixture
def feeder() -> Feeder:
    """A feeder of Flower's own state, without its web pages."""
    flower_events = pytest.importorskip("flower.events")
    state = flower_events.EventsState(max_tasks_in_memory=3)
    web: Any = SimpleNamespace(events=SimpleNamespace(state=state))
    return Feeder(None, web)  # type: ignore[arg-type]


def test_progress_is_shown_and_found_but_is_no_event(feeder: Feeder) -> None:
    job = at(State.RUNNING, 1)
    state = feeder.web.events.state
    for step in (100, 200, 300):
        feeder.publish([replace(job, step=step, steps=50000)])
    assert state.tasks[job.id].result == "step 300/50000 0%"
    assert state.counter["pi0q@box-a"]["task-started"] == 1
    assert state.search_engine.search(state.tasks, "result:300/50000").task_ids == [job.id]


def test_a_server_that_lost_its_last_second_is_believed(feeder: Feeder) -> None:
    feeder.publish([at(State.RUNNING, 2)])
    feeder.publish([at(State.QUEUED, 1)])
    assert feeder.web.events.state.tasks[JOB.id].state == "RETRY"


def test_a_job_that_flower_forgot_is_told_anew(feeder: Feeder) -> None:
    running = at(State.RUNNING, 1)
    feeder.publish([running])
    feeder.publish([replace(running, id=f"other{number}") for number in range(3)])
    assert JOB.id not in feeder.web.events.state.tasks
    feeder.publish([replace(running, step=7)])
    assert feeder.web.events.state.tasks[JOB.id].state == "STARTED"


def test_of_the_workers_events_only_those_on_themselves_pass() -> None:
    passed: list[dict[str, Any]] = []
    pass_on = without_tasks(passed.append)
    for kind in ("worker-heartbeat", "task-succeeded", "worker-offline", "task-received"):
        pass_on({"type": kind})
    assert [event["type"] for event in passed] == ["worker-heartbeat", "worker-offline"]
