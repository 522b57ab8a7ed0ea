"""Outcome of a run that the disk ended: what is said of it, what is cleaned up, and what the job asks for then."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.estimates.disk import with_margin
from pi0q.jobs.failures.diagnosis import Diagnosis
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.queue.settings import Settings
from pi0q.workers.host.probe import Disk
from pi0q.workers.runner.disk_outcome import DiskOutcome
from pi0q.workers.runs.disk_usage import CheckpointReport, DiskUsage
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.storage.disk_pressure import Act
from tests.workers.caches import checkpoint, fill
from tests.workers.storage.test_disk_pressure import MIB, Case, context, disk, saved


class Ended(Case):
    """A run whose trainer ended."""

    def __init__(self, settings: Settings, **fields: Any) -> None:
        super().__init__(settings)
        self.outcome = DiskOutcome(context(settings, **fields), self.size, measure=lambda _: disk(self.free_mib))

    def trains(self, mib: int = 1000) -> None:
        self.outcome.trainer_starts(self.pressure, saved(40, mib))
        super().trains(mib)

    def close(self, reason: Reason = Reason.DISK_LOW, newest: Saved | None = None) -> dict[str, Any]:
        return self.outcome.close(reason, self.lease, newest)  # type: ignore[arg-type]


@pytest.fixture
def ended(chosen: Settings) -> Ended:
    return Ended(chosen)


def test_a_run_that_got_on_asks_for_the_next_save_and_its_margin(ended: Ended) -> None:
    ended.trains()
    assert ended.close(newest=saved(50)) == {
        "disk_plan": {"checkpoint_mib": 1000, "free": {"box-a": with_margin(1000)}},
    }


def test_a_run_that_got_nowhere_asks_for_twice_as_much_as_the_last_time(chosen: Settings) -> None:
    before = {"checkpoint_mib": 1000, "free": {"box-a": 5000, "box-b": 7}}
    ended = Ended(chosen, disk_plan=before)
    ended.trains()
    assert ended.close(newest=saved(40))["disk_plan"]["free"] == {"box-a": 10_000, "box-b": 7}
    assert ended.close(newest=saved(50))["disk_plan"]["free"] == {"box-a": with_margin(1000), "box-b": 7}


def test_a_first_save_that_filled_the_disk_says_how_large_it_was_at_the_least(
    ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pi0q")
    ended.event("ready", params=MIB // 8)
    fill(ended.directory.checkpoints / "000010" / "pretrained_model" / "model.safetensors", 6)
    plan = ended.close(Reason.DISK_FULL)["disk_plan"]
    assert plan["checkpoint_mib"] == 12
    assert not (ended.directory.checkpoints / "000010").exists()
    assert caplog.messages == ["removed the unfinished save of step 10"]


def test_without_the_lease_nothing_is_removed(ended: Ended) -> None:
    ended.trains()
    bad = checkpoint(ended.directory, 10, verified=False, bad=True)
    ended.lease.valid = False
    assert ended.close(Reason.DISK_FULL, saved(40)) and bad.is_dir()


def test_any_other_end_forgets_it_once_a_newer_checkpoint_is_there(chosen: Settings) -> None:
    ended = Ended(chosen, disk_plan={"free": {"box-a": 5000}})
    ended.trains()
    assert ended.close(Reason.RUNNER_LOST, saved(40)) == {}
    assert ended.close(Reason.FINISHED, saved(50)) == {"disk_plan": {}}
    assert Ended(chosen).close(Reason.FINISHED, saved(50)) == {}


def test_a_stop_for_the_disk_is_described_with_numbers(ended: Ended) -> None:
    ended.free_mib = 5
    assert ended.outcome.describe(StopCause.DISK_FULL) == "the data disk is full (5 MiB free on /data)"
    ended.trains(50)
    assert ended.look() is Act.FREE
    low = "the data disk ran low: 5 MiB free on /data, the next save takes 50 MiB"
    assert ended.outcome.describe(StopCause.DISK_LOW) == low
    assert ended.outcome.describe(StopCause.HUNG) == StopCause.HUNG.text


def test_an_odd_word_for_a_full_disk_is_known_by_the_disk(ended: Ended) -> None:
    """torch.save says "unexpected pos 576 vs 534" there."""
    failed = Diagnosis(reason=Reason.TRAINER_FAILED, detail="unexpected pos 576 vs 534", fix="")
    assert ended.outcome.blame(failed) is failed, "no trainer began"
    ended.trains()
    ended.free_mib = 0
    assert ended.outcome.blame(failed) is failed, "it was not saving"
    ended.event("saving")
    blamed = ended.outcome.blame(failed)
    assert blamed.reason is Reason.DISK_FULL and "pi0q why" in blamed.fix
    hung = replace(failed, reason=Reason.HUNG)
    assert ended.outcome.blame(hung) is hung
    ended.free_mib = 5000
    assert ended.outcome.blame(failed) is failed


def test_a_disk_that_can_t_be_asked_changes_no_text(chosen: Settings) -> None:
    def gone(_: Path) -> Disk:
        raise OSError(errno.ESTALE, "stale handle")

    case = Case(chosen)
    outcome = DiskOutcome(case.context, case.size, measure=gone)
    assert outcome.describe(StopCause.DISK_FULL) == StopCause.DISK_FULL.text


def test_downloads_and_checkpoints_count_as_taken_and_what_was_there_before_does_not(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.make()
    fill(directory.path / "before", 5)
    usage, progress = DiskUsage(directory), Progress(SaveSchedule(steps=0))
    usage.add_download(700)
    fill(directory.path / "x", 3)
    assert usage.taken_mib() == 703
    CheckpointReport(progress, usage).on_sealed(None)
    assert "checkpoint" not in progress.fields
    CheckpointReport(progress, usage).on_sealed(saved(10))
    assert progress.fields["checkpoint"] == saved(10) and progress.fields["disk_now_mib"] == 703
    usage.rebase()
    assert usage.taken_mib() == 0
