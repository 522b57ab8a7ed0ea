"""A save while it is written, in words."""

from __future__ import annotations

from pathlib import Path

from pi0q.jobs.record import Saved
from pi0q.workers.runs import progress
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.progress import Progress, SaveProgress


def write(checkpoints: Path, name: str, size: int) -> None:
    """A file of that size that takes no room."""
    file = checkpoints / name / "pretrained_model" / "model.safetensors"
    file.parent.mkdir(parents=True)
    with file.open("wb") as hole:
        hole.truncate(size)


def test_how_much_of_it_is_there(tmp_path: Path) -> None:
    write(tmp_path, "000200", 4_200_000_000)
    write(tmp_path, "000100", 22_100_000_000)
    (tmp_path / "last").symlink_to("000100")
    assert progress.describe_save(tmp_path, 200, expected=22_100_000_000) == "saving step 200 (4.2 of 22.1 GB)"
    assert progress.describe_save(tmp_path, 200, expected=None) == "saving step 200 (4.2 GB)"
    assert progress.describe_save(tmp_path, 100, expected=10_000_000_000) == "saving step 100 (22.1 of 22.1 GB)"
    assert progress.describe_save(tmp_path, 300, expected=22_100_000_000) == "saving step 300 (0.0 of 22.1 GB)"


def test_a_small_one_is_over_too_soon(tmp_path: Path) -> None:
    assert progress.describe_save(tmp_path, 7, expected=None) == "saving step 7"
    assert progress.describe_save(tmp_path / "none", 7, expected=50_000_000) == "saving step 7"


def test_it_is_shown_while_it_is_written_and_no_longer(tmp_path: Path) -> None:
    progress = Progress(SaveSchedule(steps=100))
    saving = SaveProgress(progress, tmp_path)
    progress.update(checkpoint=Saved(step=1, path="", manifest="ab" * 32, bytes=22_000_000_000))
    progress.on_event({"event": "saving", "step": 2, "t": 1.0})
    write(tmp_path, "000002", 11_000_000_000)
    saving.on_tick()
    assert progress.fields["phase"] == "saving step 2 (11.0 of 22.0 GB)"
    progress.on_event({"event": "saved", "step": 2, "t": 2.0})
    saving.on_tick()
    assert progress.fields["phase"] == ""


def test_what_goes_on_beside_the_steps_is_shown_where_they_have_no_phase() -> None:
    progress = Progress(SaveSchedule(steps=100))
    progress.on_event({"event": "step", "step": 1, "t": 1.0})
    progress.beside("sealing", "verifying step 1")
    progress.beside("copy", "copying step 1")
    assert progress.fields["phase"] == "verifying step 1, copying step 1"
    progress.on_event({"event": "step", "step": 2, "t": 2.0})
    assert progress.fields["phase"] == "verifying step 1, copying step 1"
    progress.on_event({"event": "saving", "step": 2, "t": 3.0})
    progress.beside("sealing", "")
    assert progress.fields["phase"] == "saving step 2"
    progress.on_event({"event": "saved", "step": 2, "t": 4.0})
    assert progress.fields["phase"] == "copying step 1"
    progress.beside("copy", "")
    assert progress.fields["phase"] == ""
