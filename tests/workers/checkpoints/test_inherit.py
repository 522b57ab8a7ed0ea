"""What an ended job left on a box becomes another's, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.workers.checkpoints.inherit import inherit_checkpoints
from pi0q.workers.runs.lease import LeaseExpired
from pi0q.workers.runs.run_directory import RunDirectory
from tests.workers.checkpoints.conftest import Logged

OLD, NEW = "a" * 12, "b" * 12


@pytest.fixture
def new(tmp_path: Path) -> RunDirectory:
    (tmp_path / OLD / "output" / "checkpoints" / "000010").mkdir(parents=True)
    (tmp_path / NEW).mkdir()
    return RunDirectory(tmp_path / NEW)


def test_it_moves_as_it_is_and_is_moved_once(new: RunDirectory, logged: Logged) -> None:
    assert inherit_checkpoints(new, OLD, may_write=lambda: True)
    assert (new.checkpoints / "000010").is_dir() and not (new.path.parent / OLD / "output" / "checkpoints").exists()
    assert logged.take() == [f"inherited the checkpoints of job {OLD} on this box"]
    assert not inherit_checkpoints(new, OLD, may_write=lambda: True) and not logged.take()


@pytest.mark.parametrize("named", ["", "..", "../other", "c" * 12, "/etc", OLD.upper()])
def test_nothing_else_is_ever_moved(new: RunDirectory, named: str) -> None:
    assert not inherit_checkpoints(new, named, may_write=lambda: True)
    assert (new.path.parent / OLD / "output" / "checkpoints").is_dir()


def test_its_own_checkpoints_come_first(new: RunDirectory) -> None:
    new.checkpoints.mkdir(parents=True)
    assert not inherit_checkpoints(new, OLD, may_write=lambda: True)


def test_a_job_at_work_keeps_what_is_its(new: RunDirectory) -> None:
    RunDirectory(new.path.parent / OLD).write_pidfile(OLD, 3)
    assert not inherit_checkpoints(new, OLD, may_write=lambda: True)


def test_past_the_lease_nothing_is_moved(new: RunDirectory) -> None:
    with pytest.raises(LeaseExpired):
        inherit_checkpoints(new, OLD, may_write=lambda: False)
    assert (new.path.parent / OLD / "output" / "checkpoints").is_dir()
