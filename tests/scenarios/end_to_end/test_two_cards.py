"""A job of two cards all the way: a save on demand, a rank that is killed, the resume, and each rank's log."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pi0q.workers.checkpoints import local_store
from tests.scenarios.faults.scenarios import FREQ, STEPS

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    return shared_cluster.box(gpus=[80, 80])


def test_a_rank_that_is_killed_costs_the_steps_since_the_last_checkpoint(shared_cluster: Cluster, box: Box) -> None:
    shared_cluster.slow_down(FREQ + 2)
    job = shared_cluster.submit(steps=STEPS, save_freq=FREQ, gib=30, cards=2)
    box.steps(job, FREQ + 2)
    os.kill(box.events(job, "rank_start")[0]["pid"], signal.SIGKILL)
    shared_cluster.speed_up()
    done = shared_cluster.ends(job)
    assert str(done.state) == "succeeded" and done.attempt == 2
    assert [event["step"] for event in box.events(job, "ready")] == [0, FREQ]
    assert done.checkpoint and local_store.newest(Path(done.checkpoint.path).parent) == done.checkpoint
    assert any("rank 1 of 2: " in event.text for event in done.history), [event.text for event in done.history]
    assert "FAKE rank 1 of 2" in (box.run_dir(job) / "trainer-rank1.log").read_text()
    ended_by, tails = done.history[-1], shared_cluster.store.rank_tails(job)
    assert "FAKE rank 1 of 2" in tails[1] and ended_by.epoch == 2
