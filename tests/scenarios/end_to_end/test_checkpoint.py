"""`pi0q checkpoint`: a save when its user wants one, whatever happens to the link, the runner or the server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from pi0q.jobs.state import State
from tests.rig.cluster import PATIENCE, paused, send, wait

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


def training(cluster: Cluster, box: Box) -> str:
    """A job that trains and would not save for a long time."""
    job = cluster.submit(steps=100_000, save_freq=100_000, checkpoints={"every": None, "keep": 1})
    box.steps(job, 5)
    return job


def asked(cluster: Cluster, *args: str) -> subprocess.Popen[str]:
    """The command in another terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "pi0q.queue.cli", "checkpoint", *args],
        env=cluster.env(cluster.place / "laptop"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def saves(box: Box, job: str) -> list[int]:
    return [event["step"] for event in box.events(job, "saved")]


def test_it_saves_tells_and_goes_on_and_what_is_pinned_stays(cluster: Cluster) -> None:
    box = cluster.box(PI0Q_LEASE_SECONDS="60")
    job = training(cluster, box)
    first = cluster.pi0q("checkpoint", job, "--pin")
    assert first.returncode == 0, first.stderr
    (pinned,) = saves(box, job)
    assert f"Step {pinned} is saved and verified" in first.stdout and ", pinned" in first.stdout
    assert str(box.checkpoint(job, pinned)) in first.stdout
    record = cluster.store.get(job)
    assert record.pinned_steps == (pinned,) and record.checkpoint and record.checkpoint.step == pinned
    assert record.state is State.RUNNING and record.save_seconds
    # Two more: with keep at 1 the second of them goes, and the pinned one does not.
    for _ in range(2):
        told = json.loads(cluster.pi0q("checkpoint", job, "--json").stdout)
        assert told["saved"] and told["checkpoint"]["step"] == saves(box, job)[-1]
    _, second, third = saves(box, job)
    assert not box.checkpoint(job, second).exists()
    assert box.checkpoint(job, pinned).exists() and box.checkpoint(job, third).exists()
    assert f"pinned: step {pinned}" in cluster.pi0q("show", job).stdout
    # It is said once in the history for each that was asked for.
    asks = [event.text for event in record.history if "asks for a checkpoint" in event.text]
    assert len(asks) == 1 and len(box.lives(job)) == 1
    # Drained: not one step is lost, and the pins are known to the run after it.
    assert cluster.pi0q("drain", "box-a", "--now", "--wait").returncode == 0
    stopped_at = box.events(job, "step")[-1]["step"]
    handed_back = cluster.store.get(job)
    assert handed_back.checkpoint and handed_back.checkpoint.step == stopped_at == saves(box, job)[-1]
    queued = cluster.pi0q("checkpoint", job)
    assert queued.returncode == 1 and f"Its newest verified checkpoint is step {stopped_at}" in queued.stderr
    assert cluster.pi0q("checkpoint", job, "--unpin", "7").returncode == 2
    assert cluster.pi0q("checkpoint", job, "--unpin", str(pinned)).returncode == 0
    cluster.pi0q("drain", "box-a", "--undo")
    cluster.until(job, lambda record: record.state is State.RUNNING and record.save_able == "yes")
    assert cluster.pi0q("checkpoint", job).returncode == 0
    assert not box.checkpoint(job, pinned).exists()
    assert [event["step"] for event in box.events(job, "ready")] == [0, stopped_at]


def test_a_wish_is_heard_after_a_partition_and_by_the_next_runner_once(cluster: Cluster) -> None:
    box = cluster.box(linked=True, PI0Q_LEASE_SECONDS="60")
    assert box.link
    job = training(cluster, box)
    # The box can't hear it; two people ask, and both get the same save.
    box.link.hold()
    both = [asked(cluster, job), asked(cluster, job)]
    cluster.until(job, lambda record: record.save_wish)
    wait(lambda: _waits(cluster, 2), "two who wait")
    box.link.heal()
    for one in both:
        out, err = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, err
        assert f"Step {saves(box, job)[0]} is saved" in out
    assert len(saves(box, job)) == 1
    # Its runner stands still, so it hears nothing, and dies; the next one saves as soon as it trains.
    runner = box.runner(job)
    cluster.slow_down(1)
    with paused(runner):
        late = asked(cluster, job)
        cluster.until(job, lambda record: record.save_wish > record.save_served)
        send(signal.SIGKILL, runner)
    out, err = late.communicate(timeout=PATIENCE)
    assert late.returncode == 0, err
    record = cluster.store.get(job)
    assert record.epoch == 2 and f"Step {record.save_step} is saved" in out
    ready = box.events(job, "ready")[-1]["step"]
    assert saves(box, job) == [ready, record.save_step] and record.save_step in (ready + 1, ready + 2)


def _waits(cluster: Cluster, count: int) -> bool:
    """Whether so many listen for changes."""
    channel = f"{cluster.prefix}changes"
    return dict(cluster.store.client.pubsub_numsub(channel)).get(channel, 0) >= count


def test_words_for_those_that_cannot_be_saved(cluster: Cluster) -> None:
    box = cluster.box(FAKE_LAYOUT="other")
    job = training_unhooked(cluster, box)
    refused = cluster.pi0q("checkpoint", job)
    assert refused.returncode == 1 and "this LeRobot can't be hooked" in refused.stderr
    waiting = cluster.submit()
    said = cluster.pi0q("checkpoint", waiting)
    assert said.returncode == 1 and "is queued and does not train" in said.stderr
    assert "It has no checkpoint yet" in said.stderr
    assert cluster.pi0q("checkpoint", "nobody").returncode == 3
    cluster.store.cancel(job, text="seen enough")
    cluster.ends(job)
    over = cluster.pi0q("checkpoint", job, "--no-wait")
    assert over.returncode == 1 and "was cancelled: there is nothing to save any more" in over.stderr


def training_unhooked(cluster: Cluster, box: Box) -> str:
    job = cluster.submit(steps=100_000, save_freq=100_000)
    cluster.until(job, lambda record: record.state is State.RUNNING and record.save_able)
    return job
