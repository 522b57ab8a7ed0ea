"""Row 5 where checkpoints are copied: two boxes that share nothing but the queue and the copies."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from tests.rig.cluster import paused, send
from tests.scenarios.faults.scenarios import FREQ, begun, reasons, went_on
from tests.standin_hub import TOKEN, StandInHub

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster

#: How the box trains that takes over: what it does is what counts, not how long.
QUICK: dict[str, Any] = {"FAKE_STEP_SECONDS": "0.001"}
TIMES: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "30", "PI0Q_WAIT_FOR_BOX": "5"}


@pytest.fixture
def share(tmp_path: Path) -> str:
    (tmp_path / "share").mkdir()
    return str(tmp_path / "share")


def gone_for_good(cluster: Cluster, box: Box, job: str) -> None:
    box.crash()
    shutil.rmtree(box.home)
    cluster.boxes.remove(box)
    cluster.let_lease_run_out(job)


def copied_step(record: Record) -> int:
    return record.copied.step if record.copied else -1


def began(record: Record, epoch: int) -> str:
    """What the history says of how the trainer of this epoch began."""
    return str(next(one.text for one in record.history if one.epoch == epoch and one.state is State.RUNNING))


def test_row_05_another_box_goes_on_from_the_copy_in_a_directory(cluster: Cluster, share: str) -> None:
    first = cluster.box("box-a", **TIMES)
    job = begun(cluster, first, steps=200, checkpoints={"every": None, "copy_to": share})
    send(signal.SIGSTOP, first.trainer(job))
    copied = cluster.until(
        job, lambda record: record.checkpoint and copied_step(record) == record.checkpoint.step
    ).copied
    assert copied and copied.path == f"{share}/{job}/{copied.step:06d}"
    second = cluster.box("box-b", contained=True, **TIMES, **QUICK)
    second.says("Box box-b takes jobs")
    gone_for_good(cluster, first, job)
    waits = cluster.until(job, lambda record: record.state is State.QUEUED)
    assert reasons(waits) == ["lease_expired"]
    assert "which has its checkpoint" in cluster.refused(job, "box-b")
    done = went_on(cluster, second, job, lives=1, steps=200, resumed_at=copied.step)
    assert (done.box, done.epoch, done.attempt) == ("box-b", 2, 1)
    assert began(done, 2).endswith(f"resumed from step {copied.step}, brought back from its copy in {share}")
    # And its own went there as well.
    done = cluster.until(job, lambda record: copied_step(record) == 200)
    assert done.copy_detail == ""
    assert len(list(Path(share, job).iterdir())) == 2
    shown = cluster.pi0q("show", job).stdout.replace("\n", "").replace(" ", "")
    assert f"step200,0MB,verified{share}/{job}/000200" in shown


def test_row_05_another_box_goes_on_from_the_copy_on_the_hub(cluster: Cluster) -> None:
    with StandInHub() as hub:
        own = {
            **TIMES,
            "PI0Q_HF_ENDPOINT": hub.url,
            "PI0Q_HF_MIRROR": "off",
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }
        first = cluster.box("box-a", **own)
        # No other copy is under way when the box is gone.
        cluster.slow_down(FREQ + 1)
        job = cluster.submit(steps=400, save_freq=FREQ, checkpoints={"every": None, "copy_to": "hf://you/checkpoints"})
        copied = cluster.until(job, lambda record: record.copied).copied
        assert copied and copied.path == f"hf://you/checkpoints/{job}/{copied.step:06d}"
        gone_for_good(cluster, first, job)
        kept = max(int(path.split("/")[1]) for path in hub.files("model", "you/checkpoints"))
        second = cluster.box("box-b", contained=True, **own, **QUICK)
        done = went_on(cluster, second, job, lives=1, steps=400, resumed_at=kept)
        assert "brought back from its copy in hf://you/checkpoints" in began(done, 2)
        cluster.until(job, lambda record: copied_step(record) == 400)
        kept_there = {path.split("/")[1] for path in hub.files("model", "you/checkpoints")}
        assert len(kept_there) == 2 and "000400" in kept_there


def test_row_05_a_drained_box_copies_its_last_save_before_it_hands_the_job_back(cluster: Cluster, share: str) -> None:
    """Nobody waits for it: with the usual ten minutes the other box takes the job at once, and no step is lost."""
    first = cluster.box("box-a", PI0Q_WAIT_FOR_BOX="600")
    job = begun(cluster, first, steps=300, checkpoints={"every": None, "copy_to": share})
    with paused(first.trainer(job)):
        second = cluster.box("box-b", contained=True, PI0Q_WAIT_FOR_BOX="600", **QUICK)
        second.says("Box box-b takes jobs")
        drained = cluster.pi0q("drain", "box-a", "--now").stdout
    assert "the last one is copied first (up to 10m)" in drained
    cluster.until(job, lambda record: record.box == "box-b")
    done = went_on(cluster, second, job, lives=1, steps=300, resumed_at=first.events(job, "step")[-1]["step"])
    assert done.box == "box-b" and reasons(done) == ["stopped_by_box", "finished"]
