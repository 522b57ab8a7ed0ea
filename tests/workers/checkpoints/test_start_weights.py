"""Weights that a run starts from: found on this disk or among copies, verified, and independent of their source."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.record import Record, Saved, from_hash
from pi0q.jobs.start_point import StartPoint
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import local_store, start_sources
from pi0q.workers.checkpoints.start_sources import Copies, Pushed
from pi0q.workers.checkpoints.start_weights import StartWeights, Unusable, model_type
from pi0q.workers.runs.lease import Lease, LeaseExpired, boottime
from pi0q.workers.runs.run_directory import RunDirectory
from tests.workers.checkpoints.replication import Run, until
from tests.workers.checkpoints.saved import checkpoint, content

FIRST = "a1a1a1a1a1a1"


class Box:
    """A box with the run of a job that starts from another one's checkpoint."""

    def __init__(self, place: Path) -> None:
        self.settings = Settings(home=place)
        self.first = RunDirectory(place / "runs" / FIRST)
        self.own = RunDirectory(place / "runs" / "b2b2b2b2b2b2")
        self.own.make()
        self.lease = Lease(self.own.lease, seconds=10**6, fence=10**6, since=boottime())
        self.shown: list[str] = []

    def weights(self, saved: Saved) -> StartWeights:
        return StartWeights(
            start=point(saved),
            place=self.own.start,
            settings=self.settings,
            lease=self.lease,
            over=threading.Event(),
            show=self.shown.append,
        )


def point(saved: Saved) -> StartPoint:
    return StartPoint(job=FIRST, step=saved.step, manifest=saved.manifest)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")


@pytest.fixture
def saved(box: Box) -> Saved:
    return checkpoint(box.first.checkpoints, 10)


def model(directory: Path) -> dict[str, bytes]:
    return content(directory / "pretrained_model")


def test_linked_weights_are_those_of_the_checkpoint_and_take_no_space(box: Box, saved: Saved) -> None:
    before = model(Path(saved.path))
    found = box.weights(saved).link(Path(saved.path))
    assert found == box.own.start / "000010" / "pretrained_model" and content(found) == before
    assert (found / "model.safetensors").stat().st_nlink == 2
    assert not (found.parent / "training_state").exists() and model_type(found) == "act"


def test_linked_weights_outlive_their_checkpoint(box: Box, saved: Saved) -> None:
    before, weights = model(Path(saved.path)), box.weights(saved)
    weights.link(Path(saved.path))
    shutil.rmtree(box.first.path)
    assert (found := weights.present()) and content(found) == before


def test_weights_with_other_bytes_are_not_taken(box: Box, saved: Saved) -> None:
    damaged = Path(saved.path) / "pretrained_model" / "model.safetensors"
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    with pytest.raises(Unusable, match=r"model\.safetensors has other bytes than were saved"):
        box.weights(saved).link(Path(saved.path))
    assert box.weights(saved).present() is None and not box.own.start.exists()


def test_weights_that_were_damaged_since_count_no_more(box: Box, saved: Saved) -> None:
    weights = box.weights(saved)
    found = weights.link(Path(saved.path))
    (found / "config.json").write_text('{"type": "pi0"}')
    assert weights.present() is None


def test_a_file_that_the_manifest_does_not_name_is_none_of_the_weights(box: Box, saved: Saved) -> None:
    weights = box.weights(saved)
    found = weights.link(Path(saved.path))
    (found / "policy_postprocessor.json").write_text("{}")
    assert weights.present() is None


def test_another_manifest_is_not_that_of_the_record(box: Box, saved: Saved) -> None:
    other = checkpoint(box.first.checkpoints, 10, seed=b"other")
    assert other.manifest != saved.manifest
    with pytest.raises(Unusable, match="is not the one that the job's record names"):
        box.weights(saved).link(Path(other.path))


def test_past_the_lease_nothing_is_put_there(box: Box, saved: Saved) -> None:
    box.lease.revoke()
    with pytest.raises(LeaseExpired):
        box.weights(saved).link(Path(saved.path))
    assert not box.own.start.exists()


def test_a_link_in_the_place_of_a_file_is_refused(box: Box, saved: Saved, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    config = Path(saved.path) / "pretrained_model" / "config.json"
    config.unlink()
    config.symlink_to(secret)
    with pytest.raises(Unusable, match="is no regular file"):
        box.weights(saved).link(Path(saved.path))


# -- where it lies ------------------------------------------------------------------------------------


def test_a_checkpoint_is_found_by_its_manifest_in_any_run(box: Box, saved: Saved) -> None:
    runs = box.settings.runs
    assert start_sources.on_disk(runs, point(saved)) == Path(saved.path)
    moved = runs / "c3c3c3c3c3c3" / "output" / "checkpoints"
    moved.parent.mkdir(parents=True)
    box.first.checkpoints.rename(moved)
    assert start_sources.on_disk(runs, point(saved)) == moved / "000010"
    assert start_sources.on_disk(runs, replace(point(saved), manifest="0" * 64)) is None
    assert start_sources.on_disk(runs, replace(point(saved), step=20)) is None


def record(**fields: object) -> Record:
    known = from_hash({"id": FIRST, "name": "first", "state": "succeeded", "created_ms": "5"})
    return replace(known, **fields)  # type: ignore[arg-type]


def test_copies_are_looked_for_where_the_records_say(saved: Saved) -> None:
    start = point(saved)
    spec = {"checkpoints": {"copy_to": "/share"}}
    assert start_sources.copies(start, [record(spec=spec)]) == []
    known = record(spec=spec, manifests={"10": saved.manifest})
    assert start_sources.copies(start, [known]) == [Copies(place="/share", jobs=(FIRST,))]
    newer = Saved(step=20, path=f"hf://you/copies/{'d4' * 6}/000020", manifest="1" * 64, bytes=1)
    both = start_sources.copies(start, [replace(known, copied=newer)])
    assert both == [Copies(place="hf://you/copies", jobs=("d4" * 6, FIRST)), Copies(place="/share", jobs=(FIRST,))]
    assert start_sources.copies(start, [record(spec=spec, manifests={"10": "0" * 64})]) == []


def test_a_push_of_just_this_checkpoint_serves(saved: Saved) -> None:
    push = {"state": "done", "repo": "you/act", "commit": "c0ffee00" * 5}
    start, done = point(saved), record(checkpoint=saved, push=push)
    assert list(start_sources.pushed(start, [done])) == [Pushed(repo_id="you/act", commit="c0ffee00" * 5)]
    for other in (
        replace(done, checkpoint=replace(saved, step=20)),
        replace(done, checkpoint=replace(saved, manifest="0" * 64)),
        replace(done, push={**push, "state": "pending"}),
        replace(done, push={**push, "commit": "main"}),
        replace(done, push={**push, "repo": "/etc"}),
    ):
        assert list(start_sources.pushed(start, [other])) == []


# -- from a copy, by the real process -----------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Run]:
    (tmp_path / "share").mkdir()
    made = Run(tmp_path / "elsewhere", str(tmp_path / "share"), Settings(home=tmp_path / "elsewhere"))
    yield made
    made.close()


def copied(shared: Run, *steps: int) -> list[Saved]:
    made, found = shared.replicator(), []
    for step in steps:
        found.append(checkpoint(shared.directory.checkpoints, step))
        made.on_sealed(found[-1])
        until(lambda step=step: made.copied and made.copied.step == step)
    return found


def test_weights_of_a_copy_come_without_what_only_a_resume_needs(shared: Run, box: Box, tmp_path: Path) -> None:
    first, _ = copied(shared, 10, 20)
    weights = box.weights(first)
    found = weights.fetch(Copies(place=str(tmp_path / "share"), jobs=("d4" * 6, FIRST)), epoch=1)
    assert found == box.own.start / "000010" / "pretrained_model"
    assert content(found) == model(shared.directory.checkpoints / "000010")
    assert {path for path in content(found.parent) if not path.startswith("pretrained_model/")} == {
        "pi0q.manifest.json"
    }
    assert weights.present() == found
    assert sorted(path.name for path in box.own.path.glob("start*")) == ["start"]


def test_a_copy_that_is_not_the_one_is_refused_and_left_to_its_owner(shared: Run, box: Box, tmp_path: Path) -> None:
    (first,) = copied(shared, 10)
    there = tmp_path / "share" / FIRST / "000010"
    before = content(there)
    where = Copies(place=str(tmp_path / "share"), jobs=(FIRST,))
    with pytest.raises(Unusable, match="the job's record does not name its manifest"):
        box.weights(replace(first, manifest="0" * 64)).fetch(where, epoch=1)
    assert content(there) == before
    weights = there / "pretrained_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Unusable, match=r"has (other bytes than were saved|60)"):
        box.weights(first).fetch(where, epoch=1)
    assert there.is_dir() and box.weights(first).present() is None


def test_a_copy_that_went_away_is_said(shared: Run, box: Box, tmp_path: Path) -> None:
    (first,) = copied(shared, 10)
    shutil.rmtree(tmp_path / "share" / FIRST)
    with pytest.raises(Unusable, match="holds no copy of it any more"):
        box.weights(first).fetch(Copies(place=str(tmp_path / "share"), jobs=(FIRST,)), epoch=1)


def test_manifests_lists_what_is_sealed(box: Box, saved: Saved) -> None:
    later = checkpoint(box.first.checkpoints, 20)
    unsealed = box.first.checkpoints / "000030"
    shutil.copytree(later.path, unsealed)
    local_store.unseal(unsealed)
    assert local_store.manifests(box.first.checkpoints) == {"10": saved.manifest, "20": later.manifest}
    assert local_store.manifests(box.first.path / "nowhere") == {}
