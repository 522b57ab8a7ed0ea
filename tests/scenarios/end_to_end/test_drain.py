"""A box is drained, or its worker stopped and replaced, while it trains."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.rig.cluster import PATIENCE

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster


def test_now_saves_hands_back_and_the_job_goes_on_from_there_afterwards(cluster: Cluster) -> None:
    box = cluster.box(PI0Q_LEASE_SECONDS="30")
    cluster.slow_down(5)
    job = cluster.submit(steps=150, save_freq=1000)
    box.steps(job, 5)
    said = cluster.pi0q("drain", "box-a", "--now", "--wait")
    assert said.returncode == 0, said.stderr
    assert f"{job} is queued" in said.stdout and "it can be switched off" in said.stdout
    waiting = cluster.store.get(job)
    assert (str(waiting.state), str(waiting.reason), waiting.attempt) == ("queued", "stopped_by_box", 0)
    assert waiting.checkpoint and waiting.checkpoint.step >= 5
    assert box.processes(job) == [] and cluster.promised() == 0
    # It stays so over a restart of the worker.
    assert box.stop() == 0
    box.start().says("ready.")
    assert "drained" in cluster.pi0q("boxes").stdout
    assert cluster.store.get(job).epoch == 1
    cluster.speed_up()
    cluster.pi0q("drain", "box-a", "--undo")
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.epoch, done.attempt) == ("succeeded", 150, 2, 1)
    assert [event["step"] for event in box.events(job, "ready")] == [0, waiting.checkpoint.step]
    box.trainers_came_one_by_one(job)


def test_a_worker_told_to_stop_again_and_again_leaves_the_training(cluster: Cluster) -> None:
    """pi0q is upgraded: the old worker goes, in a hurry, and the new one finds the run."""
    box = cluster.box()
    cluster.slow_down(5)
    job = cluster.submit(steps=150, save_freq=50)
    box.steps(job, 5)
    for sig in (signal.SIGTERM, signal.SIGTERM, signal.SIGQUIT):
        box.worker.send_signal(sig)
    assert box.worker.wait(PATIENCE) == 0
    assert "pi0q: Stopping. The training goes on; the next worker here re-attaches to it." in box.log
    box.start().says(f"re-attached to the live runner {box.runner(job)} of {job}")
    cluster.speed_up()
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.epoch, done.attempt) == ("succeeded", 150, 1, 1)
    assert len(box.trainers_came_one_by_one(job)) == 1
