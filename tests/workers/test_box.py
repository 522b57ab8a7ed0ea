"""A box on a real queue: what it claims, what it takes back after a restart, what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.verbs.submit import put
from pi0q.workers.box import Box
from pi0q.workers.interpreter import NoTrainer, Trainer
from pi0q.workers.launcher import CannotStart
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.order import Order

if TYPE_CHECKING:
    from tests.conftest import Hands

CARD = ({"name": "simulated", "total_gib": 80},)


def a_box(settings: Settings, store: Store, name: str = "box-a", **how: Any) -> Box:
    home = settings.home if name == "box-a" else settings.home / name
    chosen = replace(settings, box=name, home=home, fake_gpus=CARD, system_disk_reserve_mib=0)
    chosen = replace(chosen, trainer_python="/bin/false")
    box = Box(chosen, store, slots=how.get("slots", 2))
    box.trainer = Trainer(python="/bin/false", lerobot="0.6.1")
    return box


@pytest.fixture
def box(chosen: Settings, store: Store) -> Box:
    made = a_box(chosen, store)
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    return made


def submit(store: Store, gib: int = 30) -> str:
    text = f"""
        resources: {{gpus: 1, vram: {gib}GiB, disk: 1MiB}}
        train: {{dataset: {{repo_id: local/d, root: datasets/d}}, policy: {{type: act}}, steps: 10}}
    """
    return str(put(store, parse(text, filename="job.yaml"))["id"])


def at_work(box: Box, job: str, *, epoch: int = 1) -> RunDirectory:
    """A runner of this job lives: this very process."""
    directory = RunDirectory(box.settings.runs / job)
    directory.make()
    directory.sign(job, epoch)
    return directory


def own_queue(box: Box) -> list[str]:
    raw: list[str] = box.store.client.lrange(f"{box.store.prefix}box.{box.name}", 0, -1)  # type: ignore[assignment]
    return [json.loads(text)["headers"]["id"] for text in raw]


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
    other.name = "box-a"
    with pytest.raises(UsageError, match="Another machine is the box box-a; this worker takes nothing"):
        other.announce()
    box.announce()


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
    record = box.attend(job)
    assert record and (record.state, str(record.reason), record.attempt) == (State.QUEUED, "runner_lost", 0)
    assert record.detail == "a runner could not be started: see the worker's log"


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


# -- after a restart


def test_a_claimed_job_whose_message_is_lost_is_started(box: Box, store: Store) -> None:
    job = submit(store)
    box.claim()
    store.client.delete(f"{store.prefix}box.box-a")
    box.tend()
    assert own_queue(box) == [], "it is fresh: its message may be on its way"
    box.tend(at_start=True)
    assert own_queue(box) == [job]


def test_a_live_runner_is_attached_to_again(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    at_work(box, job, epoch=epoch)
    store.client.delete(f"{store.prefix}box.box-a")
    box.tend(at_start=True)
    assert own_queue(box) == [job]
    assert store.get(job).state is State.RUNNING


@pytest.mark.parametrize("earlier", ["another epoch", "another process of that pid", "another boot"])
def test_a_tag_of_something_else_is_no_live_runner(box: Box, store: Store, hands: Hands, earlier: str) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    tag = at_work(box, job, epoch=epoch).tag_file
    changed = {
        "another epoch": {"epoch": epoch + 1},
        "another process of that pid": {"start_time": 1},
        "another boot": {"boot": "x"},
    }[earlier]
    tag.write_text(json.dumps(json.loads(tag.read_text()) | changed))
    box.tend(at_start=True)
    assert own_queue(box) == []
    assert store.get(job).state is State.QUEUED


def test_after_a_restart_of_the_box_its_jobs_are_in_the_queue_at_once(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit()
    hands.run(job)  # under boot "1", which is not today's
    box.tend(at_start=True)
    record = store.get(job)
    assert (record.state, str(record.reason), record.attempt) == (State.QUEUED, "box_restarted", 0)
    assert store.owned("box-a") == []


def test_a_runner_that_died_with_its_worker_is_told_apart_from_a_restart(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit()
    hands.run(job)
    store.client.hset(f"{store.prefix}job:{job}", "boot", box.identity.boot)
    box.tend(at_start=True)
    assert str(store.get(job).reason) == "runner_lost"


def test_jobs_that_a_thread_attends_are_left_to_it(box: Box, store: Store, hands: Hands) -> None:
    job = hands.submit()
    epoch = hands.run(job)
    box.attended.add((job, epoch))
    box.tend()
    assert store.get(job).state is State.RUNNING


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
