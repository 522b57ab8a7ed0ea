"""Whether a box sees the directory of a job's copies: told in words, and never waited for."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.record import Record, Saved, from_hash
from pi0q.jobs.spec import Spec, parse
from pi0q.workers.claims import copy_target
from pi0q.workers.claims.copy_target import CopyTargets
from tests.conftest import PATIENCE
from tests.workers.checkpoints.saved import checkpoint

NEW = from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "queued", "created_ms": "5"})


def spec(place: object) -> Spec:
    job = "train: {dataset: {repo_id: l/d}, policy: {type: act, device: cpu}}"
    return parse(f"name: n\ncheckpoints: {{copy_to: {place}}}\n{job}", filename="job.yaml")


def copied(place: Path, step: int = 20, checkpoint: Saved | None = None) -> Record:
    copy = Saved(step=step, path=f"{place}/a1a1a1a1a1a1/{step:06d}", manifest="ab" * 32, bytes=1)
    return replace(NEW, copied=copy, checkpoint=checkpoint)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CopyTargets:
    # A busy disk is not one that hangs.
    monkeypatch.setattr(copy_target, "PATIENCE_SECONDS", PATIENCE)
    return CopyTargets(tmp_path / "runs")


@pytest.mark.parametrize("place", ["null", "hf://you/checkpoints"])
def test_a_job_without_a_directory_of_copies_is_seen_by_every_box(box: CopyTargets, place: str) -> None:
    assert box.problems(NEW, spec(place)) == []


def test_a_directory_that_is_there_is_enough_for_a_new_job(box: CopyTargets, tmp_path: Path) -> None:
    assert box.problems(NEW, spec(tmp_path)) == []


def test_a_box_without_the_directory_does_not_take_the_job(box: CopyTargets, tmp_path: Path) -> None:
    share = tmp_path / "none" / "share"
    for job in (NEW, copied(share)):
        (why,) = box.problems(job, spec(share))
        assert why == f"copies: {share} is not there on this box: mount it, or make it (mkdir -p {share})"
    assert not share.parent.exists()


def test_a_box_that_has_another_disk_there_does_not_take_the_job(box: CopyTargets, tmp_path: Path) -> None:
    (why,) = box.problems(copied(tmp_path), spec(tmp_path))
    assert "its newest one, step 20, lies in" in why and why.endswith(f"mkdir {tmp_path / 'a1a1a1a1a1a1'}")
    (tmp_path / "a1a1a1a1a1a1").mkdir()
    assert box.problems(copied(tmp_path), spec(tmp_path)) == []
    # Copies of another place are none of this one's.
    assert box.problems(copied(tmp_path / "before"), spec(tmp_path)) == []


def test_a_box_that_has_a_checkpoint_as_new_takes_it_all_the_same(box: CopyTargets, tmp_path: Path) -> None:
    share = tmp_path / "none" / "share"
    checkpoint(tmp_path / "runs/a1a1a1a1a1a1/output/checkpoints", 20)
    assert box.problems(copied(share, 20), spec(share)) == []
    assert box.problems(copied(share, 30), spec(share)) != []
    newer = Saved(step=40, path="/elsewhere", manifest="ab" * 32, bytes=1)
    assert box.problems(copied(share, 20, checkpoint=newer), spec(share)) != []


def test_a_disk_that_hangs_holds_up_no_claim(box: CopyTargets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up, looks = threading.Event(), list[Path]()

    def hangs(place: Path, roots: tuple[Path, ...], *, make: bool) -> str:
        looks.append(place)
        up.wait(PATIENCE)
        return ""

    monkeypatch.setattr(copy_target, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(copy_target, "unusable", hangs)
    for _ in range(3):
        assert box.problems(NEW, spec(tmp_path)) == [f"copies: {tmp_path} does not answer: is the shared disk up?"]
    assert len(looks) == 1, "each look would leave a thread behind"
    up.set()
    box._hanging[tmp_path].join()
    monkeypatch.setattr(copy_target, "PATIENCE_SECONDS", PATIENCE)
    assert box.problems(NEW, spec(tmp_path)) == []
