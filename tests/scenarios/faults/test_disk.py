"""Rows 18, 31: a data disk that runs full under a training, and a GPU that someone else took."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from tests.rig import disks
from tests.rig.cluster import send, wait
from tests.rig.disks import SmallDisk
from tests.scenarios.faults.scenarios import manifests, nothing_left, reasons

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster

small = pytest.mark.skipif(bool(disks.no_mounts()), reason=disks.no_mounts() or "it can mount one")

#: A checkpoint of the fake with MODEL bytes of weights: as much again, twice, for the optimizer. MiB.
SAVE_MIB, MODEL = 24, 8 * 2**20
STEPS = 120


@pytest.fixture
def data(cluster: Cluster) -> Iterator[SmallDisk]:
    """The data disk of box-a."""
    made = SmallDisk(cluster.place / "box-a", mib=400)
    yield made
    for box in cluster.boxes:
        box.kill_everything()
    made.close()


def begun(cluster: Cluster, *, keep: int = 2, **env: Any) -> tuple[Box, str]:
    """A job with two verified checkpoints that saves by itself only at its far end; and how to make it save."""
    box = cluster.box(FAKE_MODEL_BYTES=str(MODEL), FAKE_STEP_SECONDS="0.05", **env)
    cluster.slow_down(1)
    job = cluster.submit(steps=STEPS, save_freq=10**6, checkpoints={"keep": keep, "every": None})
    box.steps(job, 1)
    for _ in range(2):
        _saves(cluster, box, job)
    return box, job


def _saves(cluster: Cluster, box: Box, job: str) -> None:
    known = cluster.store.get(job).checkpoint
    send(signal.SIGUSR1, box.trainer(job))
    cluster.until(job, lambda record: record.checkpoint != known)


def good(box: Box, job: str) -> list[str]:
    """Its verified checkpoints."""
    return sorted(manifests(box, job).keys() - {"last"})


def held(cluster: Cluster, job: str, reason: str) -> Record:
    record = cluster.until(job, lambda record: record.state is State.QUEUED and record.reason)
    assert (str(record.reason), record.attempt) == (reason, 0), record
    return record


def goes_on(cluster: Cluster, box: Box, data: SmallDisk, job: str, step: int) -> None:
    """It is left alone until there is room; then it goes on where it stood."""
    said = cluster.refused(job)
    assert said.startswith("disk: needs ") and str(data.place) in said
    epoch = cluster.store.get(job).epoch
    cluster.speed_up()
    data.empty()
    done = cluster.ends(job)
    assert (str(done.state), done.step, done.attempt, done.epoch) == ("succeeded", STEPS, 1, epoch + 1), done
    assert box.events(job, "ready")[-1]["step"] == step
    assert done.disk_plan == {}
    nothing_left(cluster, job)


@small
def test_row_18_a_disk_that_runs_low_is_emptied_of_what_may_go_and_then_the_run_saves_and_waits(
    cluster: Cluster, data: SmallDisk
) -> None:
    box, job = begun(cluster)
    older, newer = good(box, job)
    (box.checkpoint(job, 0).parent / "000000.bad").mkdir()
    # Less than the next save and its margin, also without the older checkpoint: but a save still fits.
    data.leave(SAVE_MIB // 2)
    record = held(cluster, job, "disk_low")
    saved = record.checkpoint
    assert saved and saved.step == record.step, "no step is lost"
    assert "saved and stopped" in record.detail and "free on" in record.detail
    removed = [event.text for event in record.history if "removed" in event.text]
    assert (
        len(removed) == 1
        and "000000.bad" in removed[0]
        and f"checkpoint {int(older)} (a newer one is verified)" in removed[0]
    )
    assert good(box, job) == [newer, f"{saved.step:06d}"]
    goes_on(cluster, box, data, job, saved.step)


@small
def test_row_18_a_disk_without_room_for_a_save_keeps_the_last_good_one(cluster: Cluster, data: SmallDisk) -> None:
    """To the last byte: also events, log and ledger of the run can't be written any more."""
    box, job = begun(cluster, keep=1)
    data.leave(0)
    record = held(cluster, job, "disk_full")
    assert "stopped without a save" in record.detail
    kept = record.checkpoint
    assert kept and good(box, job) == [f"{kept.step:06d}"]
    goes_on(cluster, box, data, job, kept.step)


@small
def test_row_18_a_save_that_fills_the_disk_leaves_the_one_before_it(cluster: Cluster, data: SmallDisk) -> None:
    """Another tenant takes the room while the save is being written: nobody could have seen it coming."""
    box, job = begun(cluster, keep=1, FAKE_SAVE_SECONDS="3.0")
    (kept,) = good(box, job)
    before = len(box.events(job, "saving"))
    send(signal.SIGUSR1, box.trainer(job))
    wait(lambda: len(box.events(job, "saving")) > before, "the next save", lambda: box.log)
    step = box.events(job, "saving")[-1]["step"]
    wait((box.checkpoint(job, step) / "pretrained_model" / "train_config.json").exists, "half of it")
    data.leave(1)
    record = held(cluster, job, "disk_full")
    assert "No space left on device" in record.detail
    assert record.checkpoint and good(box, job) == [kept] == [f"{record.checkpoint.step:06d}"]
    assert not box.checkpoint(job, step).exists(), "what it left is gone"
    goes_on(cluster, box, data, job, int(kept))


@small
def test_row_18_a_disk_that_can_hold_no_more_files(cluster: Cluster, data: SmallDisk) -> None:
    box, job = begun(cluster)
    data.leave_files(250)
    record = held(cluster, job, "disk_low")
    assert "files free on" in record.detail and record.checkpoint and record.checkpoint.step == record.step
    said = cluster.refused(job)
    assert "inodes: " in said and "20000 are needed" in said
    cluster.speed_up()
    data.empty()
    assert cluster.ends(job).state is State.SUCCEEDED
    assert box.events(job, "ready")[-1]["step"] == record.checkpoint.step


# -- 31 -----------------------------------------------------------------------------------------------


def test_row_31_a_gpu_that_another_process_took_is_not_claimed(cluster: Cluster) -> None:
    cards = cluster.place / "cards.json"
    cards.write_text(json.dumps([{"name": "H100", "total_mib": 81559, "free_mib": 20000}]))
    box = cluster.box(cards=cards)
    job = cluster.submit(gib=60)
    said = cluster.refused(job)
    assert said == "VRAM: needs 60.0 GiB on 1 GPU, 0 have it; the best has 19.5 GiB of 79.6 GiB free"
    assert (str(cluster.store.get(job).state), cluster.store.get(job).epoch) == ("queued", 0)
    assert said in cluster.pi0q("why", job).stdout
    # The other process ends.
    cards.write_text(json.dumps([{"name": "H100", "total_mib": 81559, "free_mib": 81000}]))
    done = cluster.ends(job)
    assert (str(done.state), reasons(done), len(box.lives(job))) == ("succeeded", ["finished"], 1)
