"""Rows 4, 5, 13, 14: the whole box crashes, is gone, stands still, or has another time of day."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.state import State
from tests.rig import clock
from tests.rig.cluster import paused, send
from tests.scenarios.faults.scenarios import (
    FREQ,
    STEPS,
    begun,
    claimed_at,
    dies,
    manifests,
    moments,
    nothing_left,
    reasons,
    went_on,
)

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


def known_box(cluster: Cluster, box: Box) -> dict[str, str]:
    return next(known for known in cluster.store.boxes() if known["name"] == box.name)


def beside(cluster: Cluster, **env: Any) -> Box:
    """Another box, ready for jobs, that neither sees nor kills what runs on the first."""
    box = cluster.box("box-b", contained=True, **env)
    box.says("Box box-b takes jobs")
    return box


def test_row_04_a_restarted_container_takes_its_own_job_back_before_an_urgent_one(cluster: Cluster) -> None:
    """Where there are no containers its processes die alone, and the boot is the same."""
    box = cluster.box(contained=True)
    job = begun(cluster, box)
    before = cluster.store.raw(job)["boot"]
    urgent = cluster.submit("urgent", priority="urgent", steps=2)
    box.crash()
    assert cluster.store.get(job).state is State.RUNNING, "nobody told the queue"
    started_ms = cluster.store.now_ms()
    box.start()
    done = went_on(cluster, box, job)
    # With the lease of 600 s: nothing was waited for.
    assert claimed_at(done, 2) - started_ms < 60_000
    assert (done.attempt, done.epoch) == (1, 2)
    assert reasons(done) == ["box_restarted" if box.container else "runner_lost", "finished"]
    assert (cluster.store.raw(job)["boot"] != before) == bool(box.container)
    assert claimed_at(cluster.ends(urgent), 1) > claimed_at(done, 2)


def test_row_05_the_job_of_a_box_that_is_gone_starts_again_elsewhere_and_says_why(cluster: Cluster) -> None:
    times: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "30", "PI0Q_WAIT_FOR_BOX": "5"}
    first = cluster.box("box-a", **times)
    job = begun(cluster, first)
    with paused(first.trainer(job)):
        second = beside(cluster, **times)
    first.crash()
    shutil.rmtree(first.home)
    cluster.boxes.remove(first)
    cluster.let_lease_run_out(job)
    waits = cluster.until(job, lambda record: record.state is State.QUEUED)
    assert reasons(waits) == ["lease_expired"]
    assert "which has its checkpoint" in cluster.refused(job, "box-b")
    done = went_on(cluster, second, job, lives=1, resumed_at=0)
    assert (done.box, done.epoch, done.attempt) == ("box-b", 2, 1)
    assert claimed_at(done, 2) - waits.updated_ms >= 5000
    warned = f"from step 0: its checkpoint of step {FREQ} is on box-a and no copy of it is here"
    assert warned in next(event.text for event in done.history if event.epoch == 2 and event.state is State.RUNNING)
    assert warned in second.trainer_log(job)
    assert warned in cluster.pi0q("show", job).stdout.replace("\n", " ")


def test_row_13_a_box_that_stood_still_beyond_its_lease_lands_nothing(cluster: Cluster) -> None:
    times: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "12", "PI0Q_WAIT_FOR_BOX": "0"}
    first = cluster.box("box-a", contained=True, **times)
    job = begun(cluster, first)
    trainer, runner = first.trainer(job), first.runner(job)
    send(signal.SIGSTOP, trainer)
    second = beside(cluster, **times)
    first.freeze()
    events, vouched = first.events(job), manifests(first, job)
    second.steps(job, 2)
    # The trainer wakes first, with nobody to stop it but itself: it makes no step and begins no save.
    saves = sorted(path.name for path in first.checkpoint(job, FREQ).parent.iterdir())
    send(signal.SIGCONT, trainer)
    dies(trainer)
    assert sorted(path.name for path in first.checkpoint(job, FREQ).parent.iterdir()) == saves
    first.thaw()
    dies(runner)
    done = went_on(cluster, second, job, lives=1, resumed_at=0)
    assert (done.box, done.epoch, done.attempt, done.step) == ("box-b", 2, 1, STEPS)
    assert [event for event in first.events(job) if event not in events] == [], "the old trainer went on"
    assert manifests(first, job) == vouched
    assert reasons(done) == ["lease_expired", "finished"]
    # And it is a box again.
    second.stop()
    assert cluster.ends(cluster.submit(steps=2)).box == "box-a"


@pytest.mark.skipif(bool(clock.missing()), reason=clock.missing())
def test_row_14_a_wrong_clock_changes_nothing(cluster: Cluster) -> None:
    boxes = {2: cluster.box("fast", clock="+2h"), -2: cluster.box("slow", clock="-2h")}
    # Two hours are far more than a lease, a fence, or the time that a job waits for its box.
    cluster.slow_down(1)
    jobs = [cluster.submit(steps=40) for _ in boxes]
    for job in jobs:
        cluster.until(job, lambda record: record.box)
    cluster.speed_up()
    by_box = {record.box: record for record in map(cluster.ends, jobs)}
    assert set(by_box) == {"fast", "slow"}
    for hours, box in boxes.items():
        record = by_box[box.name]
        assert (str(record.state), record.epoch, record.attempt) == ("succeeded", 1, 1)
        assert len(box.trainers_came_one_by_one(record.id)) == 1
        nothing_left(cluster, record.id)
        assert moments(box, record.id)[-1] - time.time() == pytest.approx(hours * 3600, abs=120), "its clock is right"
        # What the queue knows is the server's time.
        assert abs(record.history[-1].at_ms / 1000 - time.time()) < 120
        assert 0 <= float(known_box(cluster, box)["seen_seconds"]) < 120
