"""Which box takes which job: what does not fit waits with a reason, what stands behind it and fits goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from tests.rig.cluster import PATIENCE, wait

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


@pytest.fixture(scope="module")
def plain(shared_cluster: Cluster) -> Box:
    """A box without a GPU."""
    return shared_cluster.box("plain")


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster, plain: Box) -> Box:
    """A box with a card of 40 GiB."""
    return shared_cluster.box("box-a", gpus=[40])


def test_a_job_too_big_for_the_box_waits_and_those_behind_it_go_on(shared_cluster: Cluster, box: Box) -> None:
    big = shared_cluster.submit(gib=64, priority="urgent")
    small = shared_cluster.submit(gib=24, priority="low", steps=4)
    assert shared_cluster.ends(small).state is State.SUCCEEDED
    assert shared_cluster.store.get(big).state is State.QUEUED
    words = "VRAM: needs 64.0 GiB on 1 GPU, 0 have it; the best has 40.0 GiB of 40.0 GiB free"
    wait(lambda: shared_cluster.refused(big, "box-a") == words, words)
    shared_cluster.store.cancel(big, text="enough waited")


def test_a_job_without_a_gpu_runs_on_a_box_without_one(shared_cluster: Cluster, plain: Box, box: Box) -> None:
    on_gpu = shared_cluster.submit(gib=30, steps=4)
    assert shared_cluster.ends(on_gpu).box == "box-a"
    shared_cluster.slow_down(1)
    jobs = [shared_cluster.submit(steps=30) for _ in range(2)]
    for job in jobs:
        shared_cluster.until(job, lambda record: record.box)
    shared_cluster.speed_up()
    assert {shared_cluster.ends(job).box for job in jobs} == {"plain", "box-a"}


def test_a_box_without_a_gpu_says_so(shared_cluster: Cluster, plain: Box) -> None:
    job = shared_cluster.submit(gib=200)
    assert shared_cluster.refused(job, "plain") == "GPUs: needs 1, the box has none"
    shared_cluster.store.cancel(job, text="enough waited")


def test_boxes_shows_what_each_has_and_what_it_refuses(shared_cluster: Cluster, plain: Box, box: Box) -> None:
    # A job of the test before may still be in what the box announced last.
    free = json.dumps([40 * 1024])
    wait(lambda: free in {known.get("free_mib") for known in shared_cluster.store.boxes()}, "a free card")
    job = shared_cluster.submit(gib=500)
    words = shared_cluster.refused(job, "box-a")
    shared_cluster.refused(job, "plain")
    shown = {box["name"]: box for box in json.loads(shared_cluster.pi0q("boxes", "--json").stdout)}
    (vram,) = shown["box-a"]["refusals"][job]
    assert (vram["text"], vram["kind"], vram["needed_mib"], vram["free_mib"]) == (words, "vram", 500 * 1024, 40 * 1024)
    (card,) = shown["box-a"]["gpus"]
    assert (card["total_mib"], card["simulated"]) == (40 * 1024, True)
    assert shown["plain"]["gpus"] == []
    assert {box["lerobot"] for box in shown.values()} == {"0.6.1"}
    shared_cluster.store.cancel(job, text="enough waited")


def test_an_urgent_job_goes_before_older_ones(cluster: Cluster) -> None:
    jobs = {name: cluster.submit(name, priority=name, steps=2) for name in ("low", "normal", "urgent", "high")}
    cluster.box()
    claims = {name: cluster.ends(job).history[1].at_ms for name, job in jobs.items()}
    assert sorted(claims, key=claims.__getitem__) == ["urgent", "high", "normal", "low"]


def test_without_a_trainer_the_box_says_why_and_the_job_stays(cluster: Cluster) -> None:
    cluster.box(PI0Q_TRAINER_PYTHON="/bin/false")
    job = cluster.submit()
    assert cluster.refused(job).startswith("trainer: PI0Q_TRAINER_PYTHON=/bin/false has no LeRobot: point it at ")
    (known,) = cluster.store.boxes()
    assert known["note"].startswith("PI0Q_TRAINER_PYTHON=/bin/false has no LeRobot")
    assert cluster.store.get(job).state is State.QUEUED


def test_dataset_that_no_box_allows_is_told_and_the_job_is_held(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(flags={"dataset": {"repo_id": "local/else", "root": "/etc"}})
    held = shared_cluster.until(job, lambda record: record.state is State.WAITING)
    assert "dataset: /etc is outside of what this box allows" in held.held and box.name in held.held
    shared_cluster.store.cancel(job, text="enough waited")


def test_a_second_worker_in_one_home_is_refused(shared_cluster: Cluster, box: Box) -> None:
    before = len(box.started)
    box.start()
    assert box.worker.wait(PATIENCE) == 2
    assert f"A worker already runs with PI0Q_HOME={box.home}; nothing was started." in box.log
    box.started.pop()
    assert len(box.started) == before and box.worker.poll() is None


def test_a_second_box_of_one_name_is_refused(shared_cluster: Cluster, box: Box) -> None:
    other = shared_cluster.box("box-c", gpus=[40])
    other.kill()
    other.argv[1] = "box-a"
    other.start()
    assert other.worker.wait(PATIENCE) == 2
    assert "Another machine already runs as box box-a; this worker claims nothing." in other.log
    assert shared_cluster.ends(shared_cluster.submit(gib=30, steps=2)).box == "box-a"
    wait(lambda: not other.processes(), "the end of its processes")
