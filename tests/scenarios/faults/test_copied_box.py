"""A copy of a box's disk is started beside it: same id, same kept name, both alive."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from tests.rig import machine
from tests.rig.machine import Container
from tests.scenarios.faults.scenarios import begun

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


def copied(cluster: Cluster, box: Box) -> Box:
    """A machine with a copy of this box's disk, not started."""
    home = cluster.place / "copied"
    shutil.copytree(box.home, home, symlinks=True, ignore=shutil.ignore_patterns("*.lock", "*.fifo", "*.sock"))
    other = replace(box, home=home, env={**box.env, "PI0Q_HOME": str(home)}, started=[], container=Container())
    cluster.boxes.append(other)
    return other


@pytest.mark.skipif(bool(machine.refusal()), reason="no containers here: one boot, and so no copy")
def test_a_copy_of_a_box_takes_nothing_and_ends_nothing(cluster: Cluster) -> None:
    box = cluster.box(contained=True)
    cluster.slow_down(12)
    job = begun(cluster, box)
    trainer = box.trainer(job)
    other = copied(cluster, box).start()
    assert other.worker.wait(60) == 2
    assert "A copy of this box runs: box-a is up on another machine with the same id" in other.log
    assert "Fix: pi0q worker --name NAME" in other.log
    record = cluster.store.get(job)
    assert (record.state, record.epoch) == (State.RUNNING, 1) and box.trainer(job) == trainer != 0
    box.says("a copy of this box (the same id) was started elsewhere; it was refused")
    second = cluster.submit("second", steps=2)
    # A supervisor starts the copy again and again.
    assert other.start().worker.wait(60) == 2
    cluster.speed_up()
    assert cluster.ends(job).epoch == 1 and cluster.ends(second).epoch == 1
    assert [one.reason for one in (cluster.store.get(job), cluster.store.get(second))] == ["finished", "finished"]
