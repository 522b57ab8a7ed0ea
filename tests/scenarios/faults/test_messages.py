"""Rows 15, 16, 46: a message comes twice, or never; a submit is cut short, or made twice."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.state import State
from pi0q.queue.store_types import Claimant, Claimed, Reservation
from pi0q.queue.submission import load
from tests.rig.cluster import PATIENCE, paused, wait
from tests.rig.link import Link
from tests.scenarios.faults.scenarios import ONE_LIFE, begun, nothing_left, reasons, states, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    """A box that sweeps every six seconds, on a line of its own."""
    return shared_cluster.box(slots=2, linked=True, PI0Q_LEASE_SECONDS="24")


def shared_queue(cluster: Cluster, job: str) -> str:
    return cluster.prefix + cluster.store.raw(job)["queue"]


# -- 15 -----------------------------------------------------------------------------------------------


def test_row_15_a_job_that_waits_twice_is_claimed_once(shared_cluster: Cluster, box: Box) -> None:
    with paused(box.worker_pid):
        job = shared_cluster.submit(steps=20)
        copy = shared_cluster.store.raw(job)["message"]
        for _ in range(2):
            shared_cluster.store.client.lpush(shared_queue(shared_cluster, job), copy)
    done = went_on(shared_cluster, box, job, lives=1, resumed_at=0, steps=20)
    assert (done.epoch, done.attempt) == (1, 1)
    assert states(done) == f"queued {ONE_LIFE} succeeded"
    queue = shared_queue(shared_cluster, job)
    wait(lambda: not shared_cluster.store.client.llen(queue), "the sweep of the copies", lambda: box.log)


def test_row_15_a_start_that_comes_twice_starts_nothing(shared_cluster: Cluster, box: Box) -> None:
    job = begun(shared_cluster, box)
    runner = box.runner(job)
    for _ in range(3):
        shared_cluster.store.redeliver(job, box.name)
    ignored = f"Task pi0q.train[{job}] ignored"
    wait(lambda: box.log.count(ignored) == 3, "three starts that were ignored", lambda: box.log)
    assert box.runner(job) == runner
    done = went_on(shared_cluster, box, job, lives=1, resumed_at=0)
    assert (done.epoch, done.attempt) == (1, 1)
    # Nor does one that comes after the end.
    shared_cluster.store.redeliver(job, box.name)
    assert str(shared_cluster.ends(shared_cluster.submit(steps=2)).state) == "succeeded"
    wait(lambda: box.log.count(ignored) == 4, "a start that was ignored", lambda: box.log)
    assert shared_cluster.store.get(job) == done and len(box.lives(job)) == 1


# -- 16 -----------------------------------------------------------------------------------------------


def test_row_16_a_job_whose_message_was_deleted_is_claimed_all_the_same(shared_cluster: Cluster, box: Box) -> None:
    with paused(box.worker_pid):
        job = shared_cluster.submit(steps=4)
        assert shared_cluster.store.client.lpop(shared_queue(shared_cluster, job))
        assert job in [record.id for record in shared_cluster.store.waiting()]
    done = shared_cluster.ends(job)
    assert (str(done.state), done.epoch) == ("succeeded", 1)
    assert shared_cluster.store.client.llen(shared_queue(shared_cluster, job)) == 0


def test_row_16_a_claim_whose_message_went_into_a_half_open_line_is_delivered_again(
    shared_cluster: Cluster, box: Box
) -> None:
    assert box.link
    boxes = shared_cluster.store.boxes
    wait(lambda: any(known["name"] == box.name for known in boxes()), "the box's first words", lambda: box.log)
    boot = next(known["boot"] for known in boxes() if known["name"] == box.name)
    job = next(filter(None, (lost_message(shared_cluster, box, boot) for _ in range(20))), "")
    assert job, "Celery's BRPOP was never under way when the line went"
    assert shared_cluster.store.get(job).state is State.CLAIMED
    box.link.heal()
    done = shared_cluster.ends(job)
    assert (str(done.state), done.epoch, len(box.lives(job))) == ("succeeded", 1, 1)
    assert reasons(done) == ["finished"]
    nothing_left(shared_cluster, job)


def lost_message(cluster: Cluster, box: Box, boot: str) -> str:
    """A job whose message went into the box's half-open line; "" if no BRPOP of Celery was under way just then.

    The claim reaches the server and its answer does not reach the box; Celery's BRPOP takes the message and loses it.
    """
    assert box.link
    box.link.swallow()
    job = cluster.submit(steps=4)
    claimant = Claimant(box=box.name, boot=boot, lease_seconds=600)
    claimed = cluster.store.claim(job, claimant, Reservation(), text="claimed by a test for the box")
    assert isinstance(claimed, Claimed)
    # A BRPOP that is under way takes it at once.
    if not cluster.store.client.llen(f"{cluster.prefix}box.{box.name}"):
        return job
    box.link.heal()
    assert str(cluster.ends(job).state) == "succeeded"
    return ""


# -- 46 -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(shared_cluster: Cluster) -> Path:
    """A file for this story alone."""
    name = f"row46-{secrets.token_hex(4)}"
    path = shared_cluster.place / f"{name}.yaml"
    path.write_text(
        f"name: {name}\nresources: {{gpus: 0, disk: 10MiB}}\n"
        "train: {dataset: {repo_id: local/grab_box, root: datasets/grab_box},\n"
        "  policy: {type: act, device: cpu, push_to_hub: false}, steps: 2, batch_size: 2, save_freq: 2}\n"
    )
    return path


def submitted(cluster: Cluster, file: Path) -> list[str]:
    """The jobs that came of a file."""
    name = load(str(file)).name
    return [record.id for record in cluster.store.page(live=-1, ended=-1).jobs if record.name == name]


def submitter(cluster: Cluster, file: Path, url: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "pi0q.queue.cli", "submit", str(file)]
    env = cluster.env(cluster.place / "laptop", PI0Q_REDIS_URL=url)
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_row_46_enter_pressed_twice_makes_one_job(shared_cluster: Cluster, box: Box, file: Path) -> None:
    both = [submitter(shared_cluster, file, shared_cluster.server.url) for _ in range(2)]
    said = sorted((each.communicate(timeout=PATIENCE)[0] for each in both), key=lambda text: "a moment ago" in text)
    assert [each.returncode for each in both] == [0, 0]
    (job,) = submitted(shared_cluster, file)
    assert f" as {job}.  See it with" in said[0]
    assert f"was queued a moment ago as {job}; nothing new was queued" in said[1]
    assert shared_cluster.ends(job).state is State.SUCCEEDED


@pytest.mark.parametrize("accepted", [False, True], ids=["before-the-server-heard", "before-the-answer-came"])
def test_row_46_a_submitter_that_dies_leaves_one_job_or_none(
    shared_cluster: Cluster, box: Box, file: Path, accepted: bool
) -> None:
    client, link = shared_cluster.store.client, Link(shared_cluster.server.url)
    with paused(box.worker_pid):
        if accepted:
            doomed = submitter(shared_cluster, file, link.url)
            wait(lambda: submitted(shared_cluster, file), "the job of a submitter")
        else:
            # Reads are answered, the one write waits.
            client.client_pause(60_000, all=False)
            doomed = submitter(shared_cluster, file, link.url)
            wait(
                lambda: any(known["cmd"] == "evalsha" or "b" in known["flags"] for known in client.client_list()),
                "a write that waits",
            )
        link.cut()
        doomed.send_signal(signal.SIGKILL)
        doomed.communicate()
        client.client_unpause()
        assert len(submitted(shared_cluster, file)) in ((1,) if accepted else (0, 1))
        again = shared_cluster.pi0q("submit", str(file))
        assert again.returncode == 0
        (job,) = submitted(shared_cluster, file)
        assert job in again.stdout
    assert shared_cluster.ends(job).state is State.SUCCEEDED
    link.close()
