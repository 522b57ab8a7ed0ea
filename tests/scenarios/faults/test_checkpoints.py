"""Rows 19, 20: a checkpoint is torn, or its bytes change in silence. Each kind and file: workers/run/test_damage.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.record import Record
from tests.rig.cluster import paused, send
from tests.scenarios.faults.scenarios import FREQ, reasons, went_on

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster

MODEL, OPTIMIZER = "pretrained_model/model.safetensors", "training_state/optimizer_state.safetensors"


@pytest.fixture(scope="module")
def box(shared_cluster: Cluster) -> Box:
    """A box whose worker lives at the end of each story."""
    return shared_cluster.box()


def truncated(checkpoint: Path) -> None:
    path = checkpoint / OPTIMIZER
    os.truncate(path, path.stat().st_size // 2)


def unfinished(checkpoint: Path) -> None:
    (checkpoint / "pi0q.manifest.json").unlink()
    (checkpoint / "training_state/scheduler_state.json").unlink()


def truncated_without_last(checkpoint: Path) -> None:
    truncated(checkpoint)
    (checkpoint.parent / "last").unlink()


def zero_tail(checkpoint: Path) -> None:
    path = checkpoint / MODEL
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes(len(data) - 40))


def bit_flipped(checkpoint: Path) -> None:
    path = checkpoint / MODEL
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def harmed(shared_cluster: Cluster, box: Box, harm: Callable[[Path], None]) -> Record:
    """Its trainer is killed, and its newest checkpoint harmed before anyone looks; the one before it is used."""
    shared_cluster.slow_down(2 * FREQ + 1)
    job = shared_cluster.submit(steps=60, save_freq=FREQ, checkpoints={"every": None, "keep": 3})
    newest = box.sealed(job, 2 * FREQ)
    before = (box.checkpoint(job, FREQ) / MODEL).read_bytes()
    with paused(box.runner(job)):
        send(signal.SIGKILL, box.lives(job)[0]["pid"])
        harm(newest)
    done = went_on(shared_cluster, box, job, resumed_at=FREQ)
    assert "it is moved aside" in box.trainer_log(job)
    assert (newest.parent / "last").resolve().name == "000060"
    assert (box.checkpoint(job, FREQ) / MODEL).read_bytes() == before, "what was good stays as it was"
    # LeRobot came to that step again, and what was moved aside went once it was replaced.
    assert newest.exists() and not list(newest.parent.glob("*.bad"))
    assert reasons(done) == ["trainer_killed", "finished"]
    return done


@pytest.mark.parametrize("harm", [truncated, truncated_without_last, unfinished])
def test_row_19_a_torn_checkpoint_falls_back_to_the_one_before_it(
    shared_cluster: Cluster, box: Box, harm: Callable[[Path], None]
) -> None:
    harmed(shared_cluster, box, harm)


@pytest.mark.parametrize("harm", [zero_tail, bit_flipped])
def test_row_20_bytes_that_changed_in_silence_are_seen(
    shared_cluster: Cluster, box: Box, harm: Callable[[Path], None]
) -> None:
    harmed(shared_cluster, box, harm)
