"""Rows 6, 7, 8, 9: the queue's server is killed, comes back older, is full, or is another one."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs.state import State
from tests.faults.tale import STEPS, begun, nothing_left, states, went_on
from tests.rig.house import PATIENCE, paused, send, wait

if TYPE_CHECKING:
    from tests.rig.house import House

#: Times that follow from it: a look every five seconds, and a fence that no busy machine comes to.
SHORT: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "30"}


# -- 6 ----------------------------------------------------------------------------------------------


def test_row_06_during_a_run_nothing_is_lost(frail: House) -> None:
    box = frail.box()
    job = frail.submit(steps=150, save_freq=50)
    box.steps(job, 10)
    frail.server.kill()
    # Beyond the next checkpoint without a queue.
    box.sealed(job, 50)
    frail.server.restart()
    caught_up = frail.until(job, lambda record: (record.step or 0) > 50 or record.ended_ms)
    assert (caught_up.epoch, caught_up.attempt) == (1, 1)
    went_on(frail, box, job, lives=1, resumed_at=0, steps=150)
    assert frail.pi0q("logs", job).stdout.rstrip().endswith("pi0q: finished: reached step 150")
    assert str(frail.ends(frail.submit(steps=2)).state) == "succeeded"


def test_row_06_the_lost_second_had_the_claim_in_it_and_the_ledger_is_replayed(frail: House) -> None:
    frail.slow_down(10)
    job = frail.submit(steps=150, save_freq=50)
    (log,) = (frail.server.data / "appendonlydir").glob("*.incr.aof")
    kept = log.stat().st_size
    box = frail.box(**SHORT)
    box.steps(job, 10)
    frail.server.kill()
    with log.open("ab") as file:
        file.truncate(kept)
    # Nobody tells it before we have looked.
    box.freeze()
    frail.server.restart()
    assert frail.store.raw(job)["state"] == "queued"
    box.thaw()
    done = frail.until(job, lambda record: record.state is State.RUNNING)
    assert (done.epoch, done.box) == (1, "box-a")
    done = went_on(frail, box, job, lives=1, resumed_at=0, steps=150)
    assert (done.epoch, done.attempt) == (1, 1)
    # The claim is told by who remembered it.
    assert states(done).startswith("queued ") and "claimed" not in states(done)


# -- 7 ----------------------------------------------------------------------------------------------


def test_row_07_a_server_with_old_data_is_corrected_by_its_box(frail: House, tmp_path: Path) -> None:
    sizes = {"ended": 20, "running": 150, "later": 20}
    frail.slow_down(21)
    ended, running, untouched = (frail.submit(name, steps=steps, save_freq=20) for name, steps in sizes.items())
    kept = frail.server.keep(tmp_path / "kept")
    box = frail.box(**SHORT, FAKE_STEP_SECONDS="0.01")
    before = frail.ends(ended)
    box.sealed(running, 20)
    with paused(box.trainer(running)):
        frail.server.restore(kept)
        assert frail.store.raw(ended)["state"] == frail.store.raw(running)["state"] == "queued"
        mended = frail.ends(ended)
        back = frail.until(running, lambda record: record.state is State.RUNNING)
    # The run goes on under its epoch, the ended one stays ended and is not run again.
    assert (back.epoch, back.box) == (1, "box-a")
    assert (mended.state, mended.reason, mended.epoch) == (before.state, before.reason, 1)
    assert mended.step == before.step and mended.checkpoint == before.checkpoint
    assert len(box.lives(ended)) == 1
    # The next epoch is above all that the box knows of.
    send(signal.SIGKILL, box.runner(running))
    frail.speed_up()
    done = frail.ends(running)
    assert (done.epoch, str(done.state), done.step) == (2, "succeeded", 150)
    assert [event["step"] for event in box.events(running, "ready")][-1] >= 20
    assert len(box.trainers_came_one_by_one(running)) == 2
    assert frail.ends(untouched).state is State.SUCCEEDED
    nothing_left(frail, untouched)


def test_row_07_the_box_was_off_when_the_old_data_came(frail: House, tmp_path: Path) -> None:
    """Its ledgers are read at its next start: the epoch after theirs, from the checkpoint that it has."""
    frail.slow_down(24)
    job = frail.submit(steps=STEPS, save_freq=20)
    kept = frail.server.keep(tmp_path / "kept")
    box = frail.box(**SHORT)
    box.sealed(job, 20)
    box.steps(job, 24)
    box.crash()
    frail.server.restore(kept)
    assert frail.store.raw(job)["epoch"] == "0"
    box.start()
    done = went_on(frail, box, job)
    assert (done.epoch, done.attempt) == (2, 1)


# -- 8 ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full(house: House) -> Iterator[None]:
    """The server has 3 MB and all of it is taken."""
    client = house.store.client
    # More than it will be allowed, so that what its buffers give back now and then makes no room.
    for number in range(500):
        client.set(f"filler:{number}", "x" * 8192)
    client.config_set("maxmemory", "3mb")
    yield
    client.config_set("maxmemory", "0")
    for key in client.scan_iter("filler:*", count=1000):
        client.delete(key)


def job_file(house: House) -> Path:
    file = house.place / "job.yaml"
    file.write_text(
        "name: grab_box\nresources: {gpus: 0, disk: 10MiB}\n"
        "train: {dataset: {repo_id: local/grab_box, root: datasets/grab_box},\n"
        "  policy: {type: act, device: cpu, push_to_hub: false}, steps: 4, batch_size: 2}\n"
    )
    return file


def test_row_08_a_full_server_ends_no_run_and_no_box_and_says_so_to_who_submits(frail: House) -> None:
    stack = contextlib.ExitStack()
    box = frail.box(slots=2, **SHORT)
    job = begun(frail, box)
    # The worst moment: Celery's consumer has taken a message and can't write that down.
    with paused(box.worker_pid):
        frail.store.redeliver(job, box.name)
        stack.enter_context(full(frail))
    refused = frail.pi0q("submit", str(job_file(frail)))
    assert refused.returncode == 4
    assert "is out of memory.\nNothing was changed.\nRaise its maxmemory" in refused.stderr
    frail.speed_up()
    box.ended(job)
    # Unrecoverable, says Celery of that, and ends; the box goes on.
    box.says("OutOfMemoryError")
    stack.close()
    done = went_on(frail, box, job, lives=1, resumed_at=0)
    assert (done.epoch, done.attempt) == (1, 1)
    # It is in service, as the worker that it was or as one that started anew.
    assert str(frail.ends(frail.submit(steps=2)).state) == "succeeded"
    assert box.worker.poll() is None


def test_row_08_a_server_that_may_drop_jobs_gets_no_box_and_no_job(frail: House) -> None:
    client = frail.store.client
    client.config_set("maxmemory", "64mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    box = frail.box(**SHORT)
    assert box.worker.wait(PATIENCE) != 0
    refused = frail.pi0q("submit", str(job_file(frail)))
    assert refused.returncode != 0
    for told in (box.log, refused.stderr):
        assert "maxmemory-policy is allkeys-lru" in told and "CONFIG SET maxmemory-policy noeviction" in told
    assert frail.store.page().live == 0
    client.config_set("maxmemory-policy", "noeviction")
    box.start()
    assert str(frail.ends(frail.submit(steps=2)).state) == "succeeded"
    # Set wrong later, it takes no more and says why.
    client.config_set("maxmemory-policy", "allkeys-lru")
    wait(lambda: any("maxmemory-policy" in known["note"] for known in frail.store.boxes()), "a note of the box")
    job = frail.submit(steps=2)
    assert "maxmemory-policy" in frail.refused(job) or frail.store.get(job).state is State.QUEUED
    client.config_set("maxmemory-policy", "noeviction")
    assert str(frail.ends(job).state) == "succeeded"


# -- 9 ----------------------------------------------------------------------------------------------


def test_row_09_claims_on_a_promoted_replica_wait_until_each_box_has_spoken(frail: House, tmp_path: Path) -> None:
    boxes = {name: frail.box(name, slots=2, linked=True, **SHORT) for name in ("box-a", "box-b")}
    frail.slow_down(1)
    jobs = {frail.submit(steps=150, save_freq=50) for _ in range(4)}
    holders = {job: boxes[str(frail.comes_to(job, State.RUNNING).box)] for job in jobs}
    assert sorted(box.name for box in holders.values()) == ["box-a", "box-a", "box-b", "box-b"]
    replica, primary = frail.server.replica(tmp_path / "replica"), frail.server
    first, second = boxes["box-a"], boxes["box-b"]
    assert first.link and second.link
    first.link.refuse()
    second.link.refuse()
    primary.kill()
    replica.promote()
    frail.follow(replica)
    # One of the two is heard of. It ends a job, so it has room; what the other holds is not known yet.
    done = next(job for job, holder in holders.items() if holder is first)
    frail.store.cancel(done, text="cancelled by a test")
    first.link.heal()
    frail.ends(done)
    waiting = frail.submit(steps=2)
    assert "server came back a moment ago" in frail.refused(waiting, "box-a")
    assert frail.store.get(waiting).state is State.QUEUED
    second.link.heal()
    assert frail.ends(waiting).state is State.SUCCEEDED
    for job in jobs - {done}:
        record = went_on(frail, holders[job], job, lives=1, resumed_at=0, steps=150)
        assert (record.epoch, record.attempt) == (1, 1)
    primary.stop()
