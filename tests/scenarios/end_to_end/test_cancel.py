"""Cancel: wherever the job is, it ends once, nothing of it lives on and what was promised to it is free again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import State

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


@pytest.fixture(scope="module")
def silent_hub() -> Iterator[str]:
    """A Hub that takes every call and answers none: who asks it is preparing for a long time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster, silent_hub: str) -> Box:
    return shared_cluster.box(slots=2, gpus=[80], PI0Q_HF_ENDPOINT=silent_hub)


def cancelled(cluster: Cluster, box: Box, job: str) -> Record:
    """Asks for it and sees it come true, with nothing left of it."""
    cluster.store.cancel(job, text="cancelled by a test")
    record = cluster.ends(job)
    assert (str(record.state), str(record.reason)) == ("cancelled", "cancelled_by_user")
    assert box.processes(job) == []
    assert cluster.promised() == 0
    assert cluster.store.owned(box.name) == []
    return record


def test_while_it_waits_in_the_queue(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(gib=200)
    shared_cluster.refused(job)
    record = cancelled(shared_cluster, box, job)
    assert [str(event.state) for event in record.history] == ["queued", "cancelled"]
    assert shared_cluster.store.waiting() == []


def test_while_it_prepares(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(gib=30, from_hub=True)
    # The Hub was there a moment ago, and is not any more.
    assert shared_cluster.store.record_preflight(job, "box-a", {"ok": True})
    shared_cluster.comes_to(job, State.PREPARING)
    record = cancelled(shared_cluster, box, job)
    assert [str(event.state) for event in record.history if event.state is State.RUNNING] == []
    assert box.lives(job) == []


def test_while_it_runs_and_its_checkpoint_stays(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(gib=30, steps=10_000, save_freq=5)
    box.sealed(job, 5)
    record = shared_cluster.until(job, lambda record: record.checkpoint)
    assert shared_cluster.promised() == 30 * 1024 + 10
    record = cancelled(shared_cluster, box, job)
    assert record.checkpoint and (box.run_dir(job) / "output" / "checkpoints").is_dir()
    assert record.wish == ""


def test_a_trainer_that_hangs_is_ended_all_the_same(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit("hang@3", gib=30)
    box.steps(job, 2)
    cancelled(shared_cluster, box, job)


def test_while_its_box_is_dead_it_ends_when_the_box_is_back(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(steps=10_000)
    box.steps(job, 2)
    box.kill_everything()
    assert shared_cluster.store.cancel(job, text="cancelled by a test") is State.RUNNING
    box.start()
    record = shared_cluster.ends(job)
    assert record.state is State.CANCELLED
    assert len(box.lives(job)) == 1


def test_while_no_worker_lives_its_runner_hears_it(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(steps=10_000)
    box.steps(job, 2)
    box.kill()
    cancelled(shared_cluster, box, job)
    box.start()
