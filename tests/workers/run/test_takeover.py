"""What an ended job left on a box becomes another's, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.saves import NotOurs
from pi0q.workers.run.takeover import take_over

OLD, NEW = "a" * 12, "b" * 12


@pytest.fixture
def new(tmp_path: Path) -> RunDirectory:
    (tmp_path / OLD / "output" / "checkpoints" / "000010").mkdir(parents=True)
    (tmp_path / NEW).mkdir()
    return RunDirectory(tmp_path / NEW)


def test_it_moves_as_it_is_and_is_moved_once(new: RunDirectory) -> None:
    said: list[str] = []
    assert take_over(new, OLD, say=said.append, ours=lambda: True)
    assert (new.checkpoints / "000010").is_dir() and not (new.path.parent / OLD / "output" / "checkpoints").exists()
    assert said == [f"took over the checkpoints that {OLD} left on this box"]
    assert not take_over(new, OLD, say=said.append, ours=lambda: True) and len(said) == 1


@pytest.mark.parametrize("named", ["", "..", "../other", "c" * 12, "/etc", OLD.upper()])
def test_nothing_else_is_ever_moved(new: RunDirectory, named: str) -> None:
    assert not take_over(new, named, say=print, ours=lambda: True)
    assert (new.path.parent / OLD / "output" / "checkpoints").is_dir()


def test_its_own_checkpoints_come_first(new: RunDirectory) -> None:
    new.checkpoints.mkdir(parents=True)
    assert not take_over(new, OLD, say=print, ours=lambda: True)


def test_a_job_at_work_keeps_what_is_its(new: RunDirectory) -> None:
    RunDirectory(new.path.parent / OLD).sign(OLD, 3)
    assert not take_over(new, OLD, say=print, ours=lambda: True)


def test_past_the_lease_nothing_is_moved(new: RunDirectory) -> None:
    with pytest.raises(NotOurs):
        take_over(new, OLD, say=print, ours=lambda: False)
    assert (new.path.parent / OLD / "output" / "checkpoints").is_dir()
