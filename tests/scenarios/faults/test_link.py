"""Rows 10, 11, 12: the line between a box and the queue's server fails, in each way in which lines fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.state import State
from tests.rig import machine
from tests.rig.link import Link
from tests.rig.machine import Container, Wire
from tests.scenarios.faults.scenarios import begun, claimed_at, dies, manifests, moments, nothing_left, reasons, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


def line(box: Box) -> Link:
    assert box.link
    return box.link


# -- 10 -----------------------------------------------------------------------------------------------


def catches_up(cluster: Cluster, box: Box, job: str, *, heal: Callable[[], None]) -> None:
    """While the line is down the training goes on beyond its next checkpoint; afterwards nothing of it is missing."""
    known = cluster.store.get(job)
    box.sealed(job, 100)
    box.steps(job, 110)
    assert cluster.store.get(job).step == known.step, "the line was not down"
    heal()
    caught_up = cluster.until(job, lambda record: (record.step or 0) >= 110)
    assert (caught_up.state, caught_up.epoch, caught_up.attempt) == (State.RUNNING, 1, 1)
    done = went_on(cluster, box, job, lives=1, resumed_at=0, steps=300)
    assert (done.epoch, done.attempt, reasons(done)) == (1, 1, ["finished"])
    assert [event["step"] for event in box.events(job, "step")] == list(range(1, 301)), "a step was lost"
    # What was said meanwhile came after all.
    told, _ = cluster.store.tail(job)
    assert [f"checkpoint {step} verified" in told for step in (50, 100, 150)] == [True] * 3


def test_row_10_a_line_that_fails_for_less_than_the_fence(cluster: Cluster) -> None:
    box = cluster.box(linked=True, PI0Q_LEASE_SECONDS="60", FAKE_STEP_SECONDS="0.01")
    cluster.slow_down(120)
    job = cluster.submit(steps=300, save_freq=50)
    box.steps(job, 2)
    cluster.comes_to(job, State.RUNNING)
    line(box).refuse()
    catches_up(cluster, box, job, heal=line(box).heal)


@pytest.mark.skipif(bool(machine.net_refusal()), reason=f"no own networks here: {machine.net_refusal()}")
def test_row_10_a_real_line_is_pulled_and_plugged_again(killable_cluster: Cluster) -> None:
    container = Container(own_network=True)
    container.boot()
    wire = Wire(container)
    killable_cluster.store.client.config_set("bind", f"127.0.0.1 {wire.address}")
    url = killable_cluster.server.url.replace("127.0.0.1", wire.address)
    box = killable_cluster.box(
        contained=container, PI0Q_REDIS_URL=url, PI0Q_LEASE_SECONDS="60", FAKE_STEP_SECONDS="0.01"
    )
    killable_cluster.slow_down(120)
    job = killable_cluster.submit(steps=300, save_freq=50)
    box.steps(job, 2)
    killable_cluster.comes_to(job, State.RUNNING)
    wire.pull()
    catches_up(killable_cluster, box, job, heal=wire.plug)
    box.crash()
    wire.close()


# -- 11 -----------------------------------------------------------------------------------------------


def test_row_11_beyond_the_lease_the_run_has_stopped_before_its_successor_starts(cluster: Cluster) -> None:
    """What the first box sent meanwhile arrives in the end: packets that were sent until they got through."""
    times: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "16", "PI0Q_FENCE": "0.5", "PI0Q_WAIT_FOR_BOX": "0"}
    first = cluster.box("box-a", linked=True, **times)
    job = begun(cluster, first, steps=400)
    # In a container: it neither sees nor kills what runs on the first.
    second = cluster.box("box-b", contained=True, **times)
    second.says("Box box-b takes jobs")
    trainer, runner = first.trainer(job), first.runner(job)
    line(first).hold()
    running = cluster.until(job, lambda record: record.epoch == 2 and record.state is State.RUNNING)
    assert (running.box, running.attempt, reasons(running)) == ("box-b", 1, ["lease_expired"])
    dies(trainer)
    # It had saved, stopped, and done nothing any more when its successor was claimed.
    assert first.events(job, "saved")[-1]["step"] == first.events(job, "step")[-1]["step"]
    assert moments(first, job)[-1] * 1000 < claimed_at(running, 2)
    before, history = manifests(first, job), running.history
    line(first).heal()
    first.says_in_log(job, "the queue could not be reached for too long; saved and stopped")
    # It hears that the job is another's, and nothing that it says counts.
    dies(runner)
    now = cluster.store.get(job)
    assert now.history == history and (now.epoch, now.box) == (2, "box-b")
    assert manifests(first, job) == before
    cluster.store.cancel(job, text="seen enough")
    cluster.ends(job)
    nothing_left(cluster, job)
    assert str(cluster.ends(cluster.submit(steps=2)).state) == "succeeded"


def test_row_11_alone_it_saves_stops_and_asks_to_go_on_when_the_line_is_back(cluster: Cluster) -> None:
    box = cluster.box(linked=True, PI0Q_LEASE_SECONDS="16", PI0Q_FENCE="0.5")
    cluster.slow_down(3)
    job = cluster.submit(steps=250, save_freq=1000)
    box.steps(job, 3)
    line(box).refuse()
    box.says_in_log(job, "the queue could not be reached for too long; saved and stopped")
    stopped_at = box.events(job, "saved")[-1]["step"]
    line(box).heal()
    done = went_on(cluster, box, job, resumed_at=stopped_at, steps=250)
    assert (done.attempt, done.epoch) == (1, 2)


# -- 12 -----------------------------------------------------------------------------------------------


def test_row_12_a_half_open_line_is_noticed_and_left_for_a_new_one(cluster: Cluster) -> None:
    """All that was connected stays so, for its two ends, and is dead: as behind a NAT that forgot it."""
    box = cluster.box(slots=2, linked=True, PI0Q_LEASE_SECONDS="30")
    cluster.slow_down(1)
    job = cluster.submit(steps=250, save_freq=100)
    cluster.comes_to(job, State.RUNNING)
    link, made = line(box), line(box).made
    link.swallow()
    box.says("retrying, running trainings go on")
    at = box.events(job, "step")[-1]["step"]
    link.heal()
    healed_ms = cluster.store.now_ms()
    caught_up = cluster.until(job, lambda record: (record.step or 0) > at or record.ended_ms)
    assert (caught_up.state, caught_up.epoch) == (State.RUNNING, 1)
    # The worker claims, and Celery's consumer hears of it.
    other = cluster.ends(cluster.submit(steps=2))
    assert str(other.state) == "succeeded" and other.updated_ms - healed_ms < 60_000
    assert link.made > made
    done = went_on(cluster, box, job, lives=1, resumed_at=0, steps=250)
    assert (done.epoch, done.attempt) == (1, 1)
