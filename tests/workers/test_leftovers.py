"""What of a run's directory may go: never a verified checkpoint by itself, never the last one but on demand."""

from __future__ import annotations

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers import leftovers
from pi0q.workers.leftovers import Run
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.pins import Pins
from pi0q.workers.shelf import Busy

from .caches import a_run, checkpoint, fill


def the_run(settings: Settings) -> Run:
    (found,) = leftovers.runs(settings)
    return found


def names(settings: Settings, which: str) -> list[str]:
    run = the_run(settings)
    return sorted(str(path.relative_to(run.directory.path)) for path in getattr(run, which))


@pytest.fixture
def directory(chosen: Settings) -> RunDirectory:
    """Two verified checkpoints, and one of each thing that is worth nothing any more."""
    made = a_run(chosen, "a1b2c3", ended="cancelled")
    for step in (10, 30):
        checkpoint(made, step)
    checkpoint(made, 20, bad=True)
    checkpoint(made, 25, verified=False)
    (made.checkpoints / "last").symlink_to("000030")
    fill(made.path / "output.old" / "checkpoints" / "000005" / "model.safetensors", 1)
    return made


USELESS = ["output.old", "output/checkpoints/000020.bad", "output/checkpoints/000025"]


def test_by_itself_goes_what_a_later_verified_checkpoint_has_replaced(
    chosen: Settings, directory: RunDirectory
) -> None:
    assert names(chosen, "useless") == USELESS
    (item,) = leftovers.items(chosen)
    assert (item.kind, item.name, item.mib, item.kept) == ("leftovers", "a1b2c3", 3, "")
    assert leftovers.remove_useless(item, chosen) == 3
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["000010", "000030", "last"]
    assert directory.ledger.exists() and directory.log.exists()
    assert list(leftovers.items(chosen)) == []


def test_a_user_who_says_so_keeps_just_the_last_verified_checkpoint(chosen: Settings, directory: RunDirectory) -> None:
    assert names(chosen, "older") == sorted([*USELESS, "output/checkpoints/000010"])
    run = the_run(chosen)
    assert leftovers.remove(run, run.older) == 4
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["000030", "last"]


def test_what_its_user_keeps_stays(chosen: Settings, directory: RunDirectory) -> None:
    Pins(directory.checkpoints, [10], print)
    assert names(chosen, "older") == USELESS


def test_what_may_be_later_than_the_last_verified_one_stays(chosen: Settings, directory: RunDirectory) -> None:
    """The last save of a job whose runner could not vouch for it."""
    checkpoint(directory, 40, verified=False)
    checkpoint(directory, 50, bad=True)
    assert names(chosen, "useless") == USELESS
    assert "output/checkpoints/000040" not in names(chosen, "older")


def test_without_any_verified_checkpoint_nothing_goes(chosen: Settings) -> None:
    made = a_run(chosen, "a1b2c3", ended="failed")
    checkpoint(made, 10, verified=False)
    checkpoint(made, 5, bad=True)
    fill(made.path / "output.old" / "x", 1)
    assert (names(chosen, "useless"), names(chosen, "older")) == ([], [])
    assert list(leftovers.items(chosen)) == []


def test_an_older_output_with_a_verified_checkpoint_stays(chosen: Settings, directory: RunDirectory) -> None:
    old = directory.path / "output.old"
    checkpoint(RunDirectory(directory.path), 1).rename(old / "checkpoints" / "000001")
    assert "output.old" not in names(chosen, "useless")


def test_nothing_of_a_run_at_work_goes(chosen: Settings, directory: RunDirectory) -> None:
    directory.sign("a1b2c3", 1)
    (item,) = leftovers.items(chosen)
    assert item.kept == "in use"
    with pytest.raises(Busy, match="a1b2c3 is at work"):
        leftovers.remove_useless(item, chosen)
    assert names(chosen, "useless") == USELESS


def test_a_link_to_elsewhere_is_no_run(chosen: Settings, directory: RunDirectory) -> None:
    (chosen.runs / "link").symlink_to(directory.path)
    assert [run.job_id for run in leftovers.runs(chosen)] == ["a1b2c3"]
