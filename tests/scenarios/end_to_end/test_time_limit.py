"""A job with a `time_limit` saves, stops and says how it goes on; the time counts over all its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import OWNED, State

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box()


def test_it_saves_stops_and_says_how_to_go_on(shared_cluster: Cluster, box: Box) -> None:
    job = shared_cluster.submit(steps=100_000, save_freq=100_000, time_limit="2s")
    record = shared_cluster.ends(job)
    assert (record.state, str(record.reason)) == (State.FAILED, "time_limit")
    assert record.trained_seconds >= 2 and record.checkpoint and record.checkpoint.step == record.step
    assert record.detail.startswith("it trained for 2") and "time_limit is 2.0s; saved and stopped" in record.detail
    assert f"`pi0q retry {job} --file FILE` goes on from step {record.checkpoint.step}" in record.next_step


def test_the_time_before_a_restart_counts(shared_cluster: Cluster, box: Box) -> None:
    """It is handed back after a second or more; what it has left is less than the whole limit."""
    job = shared_cluster.submit(steps=100_000, save_freq=100_000, time_limit="6s")
    shared_cluster.until(job, lambda record: (record.step or 0) > 40)
    shared_cluster.store.hold(job, text="by ada")
    record = shared_cluster.until(job, lambda record: record.state is State.WAITING)
    assert 0 < record.trained_seconds < 6
    shared_cluster.store.release(job)
    again = shared_cluster.until(job, lambda record: record.state in OWNED and record.epoch == 2)
    assert again.trained_seconds >= record.trained_seconds
    ended = shared_cluster.ends(job)
    assert str(ended.reason) == "time_limit"
    assert 6 <= ended.trained_seconds < 6 + record.trained_seconds + 5
