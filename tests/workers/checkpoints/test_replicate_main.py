"""The helper that copies checkpoints: its heartbeats, and its errors in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints import replica_directory, replicate_main
from pi0q.workers.checkpoints.replicate_main import ReplicateJob, explain
from tests.workers.checkpoints.saved import checkpoint


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplicateJob]:
    share = tmp_path / "share"
    share.mkdir()
    saved = checkpoint(tmp_path / "checkpoints", 10)
    made = ReplicateJob({"act": "copy", "place": str(share), "job": "a1", "epoch": 1, "lease": "",
                          "checkpoint": saved.path, "keep": 1, "spared": []})  # fmt: skip
    yield made
    made._out.close()


def beats(helper: ReplicateJob, monkeypatch: pytest.MonkeyPatch, *, others: float, own: float) -> int:
    """Return the number of heartbeats at a hundred checks, with so many seconds of CPU time before each."""
    sent = 0
    for check in range(1, 101):
        clock = SimpleNamespace(
            process_time=lambda check=check: check * (others + own), thread_time=lambda check=check: check * own
        )
        monkeypatch.setattr(replicate_main, "time", clock)
        sent += helper.progressed()
    return sent


def test_heartbeats_go_on_on_a_busy_machine(helper: ReplicateJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two cores with eight busy processes it gets 3 ms between two heartbeats: a hash of 8 GB is no silence."""
    assert beats(helper, monkeypatch, others=0.003, own=0.0) > 20


def test_the_heartbeat_thread_itself_is_no_progress(helper: ReplicateJob, monkeypatch: pytest.MonkeyPatch) -> None:
    assert beats(helper, monkeypatch, others=0.0, own=0.02) == 0


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OwnershipLost("claim 2 copies by now")])
def test_a_copy_counts_as_made_where_older_ones_can_not_be_removed(
    helper: ReplicateJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(replica_directory.ReplicaDirectory, "prune", Mock(side_effect=error))
    assert helper.copy() == {"copied": str(tmp_path / "share/a1/000010"), "gone": []}


def test_a_fault_of_pi0q_in_removing_older_copies_is_seen(
    helper: ReplicateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_directory.ReplicaDirectory, "prune", Mock(side_effect=TypeError))
    with pytest.raises(TypeError):
        helper.copy()


def test_a_full_disk_is_told_by_its_name() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert explain(full, "/share", brings_back=False) == "/share is full: make room there"
    assert explain(full, "/share", brings_back=True) == "the data disk of this box is full: make room there"
