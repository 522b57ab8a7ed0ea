"""A training is held, as for a more urgent one, and released: no step is lost and the GPU is free meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pi0q.jobs.state import State

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster


def test_held_it_saves_and_frees_its_box_and_released_it_goes_on_from_there(cluster: Cluster) -> None:
    box = cluster.box()
    cluster.slow_down(5)
    job = cluster.submit(steps=150, save_freq=1000)
    box.steps(job, 5)
    assert cluster.pi0q("hold", job).returncode == 0
    held = cluster.comes_to(job, State.WAITING)
    assert (str(held.reason), held.attempt) == ("held", 0)
    assert held.checkpoint and held.checkpoint.step >= 5
    assert box.processes(job) == [] and cluster.promised() == 0
    # Meanwhile the box is another's.
    assert str(cluster.ends(cluster.submit(steps=3)).state) == "succeeded"
    assert cluster.store.get(job).epoch == 1
    cluster.speed_up()
    cluster.pi0q("release", job)
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.epoch, done.attempt) == ("succeeded", 150, 2, 1)
    assert [event["step"] for event in box.events(job, "ready")] == [0, held.checkpoint.step]
    box.trainers_came_one_by_one(job)
