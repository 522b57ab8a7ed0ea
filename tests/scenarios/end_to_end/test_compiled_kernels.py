"""Compiled kernels follow a job to its next box, where both boxes' owners agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios.faults.scenarios import begun

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster

#: A policy that LeRobot compiles; the fake writes one kernel.
COMPILED: dict[str, Any] = {"type": "diffusion", "device": "cpu", "push_to_hub": False, "compile_model": True}


def moved(cluster: Cluster, share: Path, *, first: str, second: str) -> tuple[Box, str]:
    """A job that compiled on one box and goes on on another, with these answers of their owners; that box."""
    times: dict[str, Any] = {"PI0Q_WAIT_FOR_BOX": "0"}
    one = cluster.box("box-a", PI0Q_SHARE_COMPILED=first, **times)
    checkpoints = {"every": None, "copy_to": str(share)}
    job = begun(cluster, one, steps=60, flags={"policy": COMPILED}, checkpoints=checkpoints)
    if first != "off":
        cluster.until(job, lambda record: record.compiled)
    assert "FAKE kernel compiled" in one.trainer_log(job)
    other = cluster.box("box-b", PI0Q_SHARE_COMPILED=second, **times)
    other.says("Box box-b takes jobs")
    assert cluster.pi0q("drain", "box-a", "--now").returncode == 0
    cluster.speed_up()
    done = cluster.ends(job)
    assert (str(done.state), done.box) == ("succeeded", "box-b"), done
    return other, job


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


def test_next_box_of_a_job_finds_the_kernels_that_the_first_compiled(cluster: Cluster, share: Path) -> None:
    box, job = moved(cluster, share, first="own", second="own")
    assert "brought the compiled kernels of job" in box.trainer_log(job)
    assert "FAKE kernel found" in box.trainer_log(job)
    assert len(list((box.home / "cache" / "compiled").iterdir())) == 1


def test_box_whose_owner_did_not_agree_reads_no_kernels(cluster: Cluster, share: Path) -> None:
    box, job = moved(cluster, share, first="own", second="off")
    assert list((share / "compile").iterdir())
    assert "FAKE kernel compiled" in box.trainer_log(job)
    assert not (box.home / "cache" / "compiled").exists()
