"""Rows 6, 7, 8, 9: the queue's server is killed, comes back older, is full, or is another one."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs.state import State
from tests.rig.cluster import PATIENCE, paused, send, wait
from tests.scenarios.faults.scenarios import STEPS, begun, nothing_left, states, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster

#: Times that follow from it: a look every five seconds, and a fence that no busy machine comes to.
SHORT: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "30"}


# -- 6 ----------------------------------------------------------------------------------------------


def test_row_06_during_a_run_nothing_is_lost(killable_cluster: Cluster) -> None:
    box = killable_cluster.box()
    job = killable_cluster.submit(steps=150, save_freq=50)
    box.steps(job, 10)
    killable_cluster.server.kill()
    # Beyond the next checkpoint without a queue.
    box.sealed(job, 50)
    killable_cluster.server.restart()
    caught_up = killable_cluster.until(job, lambda record: (record.step or 0) > 50 or record.ended_ms)
    assert (caught_up.epoch, caught_up.attempt) == (1, 1)
    went_on(killable_cluster, box, job, lives=1, resumed_at=0, steps=150)
    assert killable_cluster.pi0q("logs", job).stdout.rstrip().endswith("pi0q: finished: reached step 150")
    assert str(killable_cluster.ends(killable_cluster.submit(steps=2)).state) == "succeeded"


def test_row_06_the_lost_second_had_the_claim_in_it_and_the_ledger_is_replayed(killable_cluster: Cluster) -> None:
    killable_cluster.slow_down(10)
    job = killable_cluster.submit(steps=150, save_freq=50)
    (log,) = (killable_cluster.server.data / "appendonlydir").glob("*.incr.aof")
    kept = log.stat().st_size
    box = killable_cluster.box(**SHORT)
    box.steps(job, 10)
    killable_cluster.server.kill()
    with log.open("ab") as file:
        file.truncate(kept)
    # Nobody tells it before we have looked.
    box.freeze()
    killable_cluster.server.restart()
    assert killable_cluster.store.raw(job)["state"] == "queued"
    box.thaw()
    done = killable_cluster.until(job, lambda record: record.state is State.RUNNING)
    assert (done.epoch, done.box) == (1, "box-a")
    done = went_on(killable_cluster, box, job, lives=1, resumed_at=0, steps=150)
    assert (done.epoch, done.attempt) == (1, 1)
    # The claim is told by who remembered it.
    assert states(done).startswith("queued ") and "claimed" not in states(done)


# -- 7 ----------------------------------------------------------------------------------------------


def test_row_07_a_server_with_old_data_is_corrected_by_its_box(killable_cluster: Cluster, tmp_path: Path) -> None:
    sizes = {"ended": 20, "running": 150, "later": 20}
    killable_cluster.slow_down(21)
    ended, running, untouched = (
        killable_cluster.submit(name, steps=steps, save_freq=20) for name, steps in sizes.items()
    )
    kept = killable_cluster.server.keep(tmp_path / "kept")
    box = killable_cluster.box(**SHORT, FAKE_STEP_SECONDS="0.01")
    before = killable_cluster.ends(ended)
    box.sealed(running, 20)
    with paused(box.trainer(running)):
        killable_cluster.server.restore(kept)
        assert killable_cluster.store.raw(ended)["state"] == killable_cluster.store.raw(running)["state"] == "queued"
        mended = killable_cluster.ends(ended)
        back = killable_cluster.until(running, lambda record: record.state is State.RUNNING)
    # The run goes on under its epoch, the ended one stays ended and is not run again.
    assert (back.epoch, back.box) == (1, "box-a")
    assert (mended.state, mended.reason, mended.epoch) == (before.state, before.reason, 1)
    assert mended.step == before.step and mended.checkpoint == before.checkpoint
    assert len(box.lives(ended)) == 1
    # The next epoch is above all that the box knows of.
    send(signal.SIGKILL, box.runner(running))
    killable_cluster.speed_up()
    done = killable_cluster.ends(running)
    assert (done.epoch, str(done.state), done.step) == (2, "succeeded", 150)
    assert [event["step"] for event in box.events(running, "ready")][-1] >= 20
    assert len(box.trainers_came_one_by_one(running)) == 2
    assert killable_cluster.ends(untouched).state is State.SUCCEEDED
    nothing_left(killable_cluster, untouched)


def test_row_07_the_box_was_off_when_the_old_data_came(killable_cluster: Cluster, tmp_path: Path) -> None:
    """Its ledgers are read at its next start: the epoch after theirs, from the checkpoint that it has."""
    killable_cluster.slow_down(24)
    job = killable_cluster.submit(steps=STEPS, save_freq=20)
    kept = killable_cluster.server.keep(tmp_path / "kept")
    box = killable_cluster.box(**SHORT)
    box.sealed(job, 20)
    box.steps(job, 24)
    box.crash()
    killable_cluster.server.restore(kept)
    assert killable_cluster.store.raw(job)["epoch"] == "0"
    box.start()
    done = went_on(killable_cluster, box, job)
    assert (done.epoch, done.attempt) == (2, 1)


# -- 8 ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full(cluster: Cluster) -> Iterator[None]:
    """The server has 3 MB and all of it is taken."""
    client = cluster.store.client
    # More than it will be allowed, so that what its buffers give back now and then makes no room.
    for number in range(500):
        client.set(f"filler:{number}", "x" * 8192)
    client.config_set("maxmemory", "3mb")
    yield
    client.config_set("maxmemory", "0")
    for key in client.scan_iter("filler:*", count=1000):
        client.delete(key)


def job_file(cluster: Cluster) -> Path:
    file = cluster.place / "job.yaml"
    file.write_text(
        "name: grab_box\nresources: {gpus: 0, disk: 10MiB}\n"
        "train: {dataset: {repo_id: local/grab_box, root: datasets/grab_box},\n"
        "  policy: {type: act, device: cpu, push_to_hub: false}, steps: 4, batch_size: 2}\n"
    )
    return file


def test_row_08_a_full_server_ends_no_run_and_no_box_and_says_so_to_who_submits(killable_cluster: Cluster) -> None:
    stack = contextlib.ExitStack()
    box = killable_cluster.box(slots=2, **SHORT)
    job = begun(killable_cluster, box)
    # The worst moment: Celery's consumer has taken a message and can't write that down.
    with paused(box.worker_pid):
        killable_cluster.store.redeliver(job, box.name)
        stack.enter_context(full(killable_cluster))
    refused = killable_cluster.pi0q("submit", str(job_file(killable_cluster)))
    assert refused.returncode == 4
    assert "is out of memory.\nNothing was changed.\nRaise its maxmemory" in refused.stderr
    killable_cluster.speed_up()
    box.ended(job)
    # Unrecoverable, says Celery of that, and ends; the box goes on.
    box.says("OutOfMemoryError")
    stack.close()
    done = went_on(killable_cluster, box, job, lives=1, resumed_at=0)
    assert (done.epoch, done.attempt) == (1, 1)
    # It is in service, as the worker that it was or as one that started anew.
    assert str(killable_cluster.ends(killable_cluster.submit(steps=2)).state) == "succeeded"
    assert box.worker.poll() is None


def test_row_08_a_server_that_may_drop_jobs_gets_no_box_and_no_job(killable_cluster: Cluster) -> None:
    client = killable_cluster.store.client
    client.config_set("maxmemory", "64mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    box = killable_cluster.box(**SHORT)
    assert box.worker.wait(PATIENCE) != 0
    refused = killable_cluster.pi0q("submit", str(job_file(killable_cluster)))
    assert refused.returncode != 0
    for told in (box.log, refused.stderr):
        assert "maxmemory-policy is allkeys-lru" in told and "CONFIG SET maxmemory-policy noeviction" in told
    assert killable_cluster.store.page().counts.live == 0
    client.config_set("maxmemory-policy", "noeviction")
    box.start()
    assert str(killable_cluster.ends(killable_cluster.submit(steps=2)).state) == "succeeded"
    # Set wrong later, it takes no more and says why.
    client.config_set("maxmemory-policy", "allkeys-lru")
    wait(
        lambda: any("maxmemory-policy" in known["note"] for known in killable_cluster.store.boxes()),
        "a note of the box",
    )
    job = killable_cluster.submit(steps=2)
    assert "maxmemory-policy" in killable_cluster.refused(job) or killable_cluster.store.get(job).state is State.QUEUED
    client.config_set("maxmemory-policy", "noeviction")
    assert str(killable_cluster.ends(job).state) == "succeeded"


# -- 9 ----------------------------------------------------------------------------------------------


def test_row_09_claims_on_a_promoted_replica_wait_until_each_box_has_spoken(
    killable_cluster: Cluster, tmp_path: Path
) -> None:
    boxes = {name: killable_cluster.box(name, slots=2, linked=True, **SHORT) for name in ("box-a", "box-b")}
    killable_cluster.slow_down(1)
    jobs = {killable_cluster.submit(steps=150, save_freq=50) for _ in range(4)}
    holders = {job: boxes[str(killable_cluster.comes_to(job, State.RUNNING).box)] for job in jobs}
    assert sorted(box.name for box in holders.values()) == ["box-a", "box-a", "box-b", "box-b"]
    replica, primary = killable_cluster.server.replica(tmp_path / "replica"), killable_cluster.server
    first, second = boxes["box-a"], boxes["box-b"]
    assert first.link and second.link
    first.link.refuse()
    second.link.refuse()
    primary.kill()
    replica.promote()
    killable_cluster.follow(replica)
    # One of the two is heard of. It ends a job, so it has room; what the other holds is not known yet.
    done = next(job for job, holder in holders.items() if holder is first)
    killable_cluster.store.cancel(done, text="cancelled by a test")
    first.link.heal()
    killable_cluster.ends(done)
    waiting = killable_cluster.submit(steps=2)
    assert "queue server restarted" in killable_cluster.refused(waiting, "box-a")
    assert killable_cluster.store.get(waiting).state is State.QUEUED
    second.link.heal()
    assert killable_cluster.ends(waiting).state is State.SUCCEEDED
    for job in jobs - {done}:
        record = went_on(killable_cluster, holders[job], job, lives=1, resumed_at=0, steps=150)
        assert (record.epoch, record.attempt) == (1, 1)
    primary.stop()
