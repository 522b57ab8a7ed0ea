"""Rows 17, 34: a trainer that always dies, and one that hangs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.outcome import MAX_ATTEMPTS, MAX_RUNS_WITHOUT_CHECKPOINT
from pi0q.jobs.state import State
from tests.rig import machine
from tests.rig.cluster import gone, wait
from tests.scenarios.faults.scenarios import STEPS, begun, dies, nothing_left, reasons, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


#: Runners do not wait for seconds for what will not come.
IMPATIENT: dict[str, Any] = {"WITNESS_IMPATIENT": "1"}


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    """A box of one slot, so that whoever holds it holds up all others; a step of its trainers takes 0.01 s."""
    return shared_cluster.box(FAKE_STEP_SECONDS="0.01")


# -- 17 -----------------------------------------------------------------------------------------------


def test_row_17_a_poison_job_ends_after_three_attempts_and_others_flow(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit("kill@1")
    healthy = [shared_cluster.submit(steps=4, save_freq=2) for _ in range(2)]
    record = shared_cluster.ends(job)
    assert (str(record.state), str(record.reason), record.attempt) == ("failed", "trainer_killed", MAX_ATTEMPTS)
    assert f"(attempt {MAX_ATTEMPTS} of {MAX_ATTEMPTS})" in record.detail
    assert len(box.trainers_came_one_by_one(job)) == MAX_ATTEMPTS
    assert [shared_cluster.ends(other).state for other in healthy] == [State.SUCCEEDED] * 2
    assert shared_cluster.store.waiting() == []
    nothing_left(shared_cluster, job)


def test_row_17_a_job_that_always_kills_its_runner_is_a_crash_loop_and_others_flow(
    shared_cluster: Cluster, box: Box
) -> None:
    job = shared_cluster.submit("parricide")
    healthy = shared_cluster.submit(steps=4, save_freq=2)
    record = shared_cluster.ends(job)
    assert (str(record.state), str(record.reason)) == ("failed", "crash_loop")
    # None of them was an attempt, and yet there is an end to it.
    assert record.epoch == MAX_RUNS_WITHOUT_CHECKPOINT and record.attempt <= 1
    assert f"({MAX_RUNS_WITHOUT_CHECKPOINT} times without a new checkpoint)" in record.detail
    assert shared_cluster.ends(healthy).state is State.SUCCEEDED
    nothing_left(shared_cluster, job)


# -- 34 -----------------------------------------------------------------------------------------------


def test_row_34_a_hung_trainer_is_ended_once_and_goes_on(cluster: Cluster) -> None:
    box = cluster.box(PI0Q_HANG_SECONDS="8", FAKE_FAULT_ONCE=str(cluster.place / "hung"), **IMPATIENT)
    job = begun(cluster, box, "hang@30")
    dies(box.trainer(job))
    done = went_on(cluster, box, job)
    assert (done.attempt, done.epoch, reasons(done)) == (2, 2, ["hung", "finished"])
    # Where it stood is in its log, so that a person finds the cause.
    log = box.trainer_log(job)
    assert "most recent call first" in log and "in before_step" in log
    (hung,) = [event.text for event in done.history if str(event.reason) == "hung"]
    assert hung.startswith("no step for ") and "it stood in before_step (faults.py:" in hung
    assert "in before_step" in (box.run_dir(job) / "stacks-1.txt").read_text()


def test_row_34_a_second_hang_is_the_end_but_one_that_compiles_may_be_silent_for_longer(cluster: Cluster) -> None:
    box = cluster.box(slots=2, gpus=[80], PI0Q_HANG_SECONDS="0.5", **IMPATIENT)
    policy = {"type": "diffusion", "device": "cuda", "push_to_hub": False, "compile_model": True}
    compiling = cluster.submit("hang@1", gib=30, flags={"policy": policy})
    wait(lambda: box.events(compiling, "ready"), "a trainer before its first step", lambda: box.log)
    cluster.comes_to(compiling, State.RUNNING)
    plain = cluster.submit("hang@1")
    record = cluster.ends(plain)
    assert (str(record.state), str(record.reason), record.attempt) == ("failed", "hung", 2)
    assert len(box.trainers_came_one_by_one(plain)) == 2
    # All that while the other one was as silent.
    known = cluster.store.get(compiling)
    assert (known.state, known.epoch) == (State.RUNNING, 1)
    cluster.store.cancel(compiling, text="seen enough")
    cluster.ends(compiling)
    nothing_left(cluster, compiling)
    nothing_left(cluster, plain)


@pytest.fixture
def freezer() -> Iterator[Callable[[int], None]]:
    """Puts processes into state D, where no signal reaches them, by a freezer of cgroup v1."""
    place = Path(f"/sys/fs/cgroup/freezer/pi0q-{os.getpid()}")
    try:
        place.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer of cgroup v1 here: {error}")

    def freeze(pid: int) -> None:
        (place / "cgroup.procs").write_text(str(pid))
        (place / "freezer.state").write_text("FROZEN")
        wait(lambda: "FROZEN" in (place / "freezer.state").read_text(), "a frozen process")

    yield freeze
    (place / "freezer.state").write_text("THAWED")
    wait(lambda: not (place / "cgroup.procs").read_text(), "an empty freezer")
    place.rmdir()


@pytest.mark.skipif(bool(machine.refusal()), reason=f"no containers here: {machine.refusal()}")
def test_row_34_a_trainer_that_nothing_can_kill_drains_its_box(
    cluster: Cluster, freezer: Callable[[int], None]
) -> None:
    times: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "24", "PI0Q_WAIT_FOR_BOX": "0", "PI0Q_HANG_SECONDS": "1"}
    first = cluster.box("box-a", **IMPATIENT, **times)
    job = begun(cluster, first)
    trainer = first.trainer(job)
    freezer(trainer)
    # Elsewhere: its runner must not see the undead one.
    second = cluster.box("box-b", contained=True, **times)
    done = cluster.until(job, lambda record: record.epoch == 2 and record.state is State.RUNNING)
    assert (done.box, reasons(done)) == ("box-b", ["hung"])
    assert not gone(trainer), "it was not in state D"
    drained = next(known for known in cluster.store.boxes() if known["name"] == "box-a")
    assert drained["drain"] == "drain"
    assert drained["drain_text"] == f"process {trainer} of {job} can't be killed: restart the machine"
    cluster.speed_up()
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.box) == ("succeeded", STEPS, "box-b")
    # It takes nothing before its user says so.
    second.stop()
    waiting = cluster.submit(steps=2)
    assert "--undo` ends that" in cluster.pi0q("show", waiting).stdout
    cluster.store.drain("box-a", "", text="")
    assert cluster.ends(waiting).box == "box-a"
