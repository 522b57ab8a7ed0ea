"""Garbage of run directories: never a verified checkpoint by itself, the last one only on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.storage import run_garbage
from pi0q.workers.storage.inventory import Busy
from pi0q.workers.storage.run_garbage import Run
from tests.workers.caches import a_run, checkpoint, fill


def the_run(settings: Settings) -> Run:
    (found,) = run_garbage.runs(settings)
    return found


def names(settings: Settings, which: str) -> list[str]:
    run = the_run(settings)
    return sorted(str(path.relative_to(run.directory.path)) for path in getattr(run, which))


@pytest.fixture
def directory(chosen: Settings) -> RunDirectory:
    """Two verified checkpoints, and one piece of garbage of each kind."""
    made = a_run(chosen, "a1b2c3", ended="cancelled")
    for step in (10, 30):
        checkpoint(made, step)
    checkpoint(made, 20, bad=True)
    checkpoint(made, 25, verified=False)
    (made.checkpoints / "last").symlink_to("000030")
    fill(made.path / "output.old" / "checkpoints" / "000005" / "model.safetensors", 1)
    return made


GARBAGE = ["output.old", "output/checkpoints/000020.bad", "output/checkpoints/000025"]


def test_garbage_is_what_a_later_verified_checkpoint_has_replaced(chosen: Settings, directory: RunDirectory) -> None:
    assert names(chosen, "garbage") == GARBAGE
    (item,) = run_garbage.items(chosen)
    assert (item.kind, item.name, item.mib, item.kept) == ("leftovers", "a1b2c3", 3, "")
    assert run_garbage.remove_garbage(item, chosen) == 3
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["000010", "000030", "last"]
    assert directory.ledger.exists() and directory.log.exists()
    assert list(run_garbage.items(chosen)) == []


def test_removable_is_all_but_the_last_verified_checkpoint(chosen: Settings, directory: RunDirectory) -> None:
    assert names(chosen, "removable") == sorted([*GARBAGE, "output/checkpoints/000010"])
    run = the_run(chosen)
    assert run_garbage.remove(run, run.removable) == 4
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["000030", "last"]


def test_removable_leaves_pinned_checkpoints(chosen: Settings, directory: RunDirectory) -> None:
    Pins(directory.checkpoints, [10])
    assert names(chosen, "removable") == GARBAGE


def test_eviction_keeps_unverified_checkpoints_after_last_verified(chosen: Settings, directory: RunDirectory) -> None:
    """The last save of a job whose runner died before it was sealed."""
    checkpoint(directory, 40, verified=False)
    checkpoint(directory, 50, bad=True)
    assert names(chosen, "garbage") == GARBAGE
    assert "output/checkpoints/000040" not in names(chosen, "removable")


def test_without_a_verified_checkpoint_nothing_is_garbage(chosen: Settings) -> None:
    made = a_run(chosen, "a1b2c3", ended="failed")
    checkpoint(made, 10, verified=False)
    checkpoint(made, 5, bad=True)
    fill(made.path / "output.old" / "x", 1)
    assert (names(chosen, "garbage"), names(chosen, "removable")) == ([], [])
    assert list(run_garbage.items(chosen)) == []


def test_old_output_with_a_verified_checkpoint_is_no_garbage(chosen: Settings, directory: RunDirectory) -> None:
    old = directory.path / "output.old"
    checkpoint(RunDirectory(directory.path), 1).rename(old / "checkpoints" / "000001")
    assert "output.old" not in names(chosen, "garbage")


def test_nothing_of_an_active_run_is_removed(chosen: Settings, directory: RunDirectory) -> None:
    directory.write_pidfile("a1b2c3", 1)
    (item,) = run_garbage.items(chosen)
    assert item.kept == "in use"
    with pytest.raises(Busy, match="run a1b2c3 is still active"):
        run_garbage.remove_garbage(item, chosen)
    assert names(chosen, "garbage") == GARBAGE


def test_a_link_to_elsewhere_is_no_run_directory(chosen: Settings, directory: RunDirectory) -> None:
    (chosen.runs / "link").symlink_to(directory.path)
    assert [run.job_id for run in run_garbage.runs(chosen)] == ["a1b2c3"]


def test_a_linked_checkpoint_counts_as_verified_and_is_not_removed(
    chosen: Settings, directory: RunDirectory, tmp_path: Path
) -> None:
    """A user moved it to another disk."""
    (directory.checkpoints / "000010").rename(tmp_path / "elsewhere")
    (directory.checkpoints / "000010").symlink_to(tmp_path / "elsewhere")
    assert [step for step, _ in the_run(chosen).verified] == [10, 30]
    assert names(chosen, "removable") == GARBAGE
    assert local_store.prune(directory.checkpoints, 1) == [] and local_store.is_sealed(tmp_path / "elsewhere")


def test_of_the_run_at_work_damaged_checkpoints_count_and_the_save_in_the_making_does_not(chosen: Settings) -> None:
    made = a_run(chosen, "a1b2c3")
    checkpoint(made, 10, verified=False)
    checkpoint(made, 5, bad=True)
    fill(made.path / "output.old" / "x", 1)
    assert run_garbage.garbage(made) == []
    names = [path.name for path in run_garbage.garbage(made, at_work=True)]
    assert names == ["output.old", "000005.bad"], "of 000010 nobody knows whether it is being written"
    checkpoint(made, 20)
    checkpoint(made, 30, verified=False)
    names = [path.name for path in run_garbage.garbage(made, at_work=True)]
    assert names == ["output.old", "000005.bad", "000010"]
