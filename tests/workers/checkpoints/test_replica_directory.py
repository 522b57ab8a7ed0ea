"""Copies in a directory: whole or not there, taken up after a kill, verified where they arrived, fenced."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints import replica_directory, transfer
from pi0q.workers.checkpoints.replica_directory import ReplicaDirectory, TargetUnusable
from pi0q.workers.checkpoints.transfer import Damaged, TransferCorrupted, TransferHooks
from tests.workers.checkpoints.saved import checkpoint, content

JOB = "a1b2c3"


@dataclass
class Witness:
    """Counts what goes through, and may end it."""

    #: After so many bytes, or so many looks at the lease, it is `end` that comes.
    bytes_left: int = 10**12
    looks_left: int = 10**12
    end: Callable[[], Exception] = KeyboardInterrupt  # type: ignore[assignment]
    went: list[int] = field(default_factory=list)

    def tick(self, size: int) -> None:
        self.went.append(size)
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise self.end()

    def must(self) -> None:
        self.looks_left -= 1
        if self.looks_left < 0:
            raise self.end()

    def hooks(self) -> TransferHooks:
        return TransferHooks(count=self.tick, require_lease=self.must, expect=lambda total: None)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK", 10_000)
    monkeypatch.setattr(transfer, "FLUSH_EVERY", 20_000)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


def directory(share: Path, *, epoch: int = 1, witness: Witness | None = None) -> ReplicaDirectory:
    return ReplicaDirectory(str(share), JOB, epoch=epoch, hooks=(witness or Witness()).hooks())


def put(place: ReplicaDirectory, source: Path) -> str:
    manifest, text = transfer.read_manifest(source)
    return place.put(source, manifest, text)


def test_a_copy_is_the_checkpoint_and_comes_back_the_same(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    place = directory(share)
    assert put(place, source) == str(share / JOB / "000020")
    assert content(share / JOB / "000020") == content(source)
    assert sorted(path.name for path in (share / JOB).iterdir()) == ["000020"]
    assert place.names() == {20: "000020"}
    place.fetch("000020", tmp_path / "back")
    assert content(tmp_path / "back") == content(source)


def test_what_is_copied_already_is_not_copied_again(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    put(directory(share), source)
    witness = Witness()
    put(directory(share, epoch=2, witness=witness), source)
    assert witness.went == []


@pytest.mark.parametrize("killed_after", [1, 55_000, 70_000, 130_000, 180_000])
def test_after_a_kill_no_file_that_arrived_is_sent_again(share: Path, tmp_path: Path, killed_after: int) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    with pytest.raises(KeyboardInterrupt):
        put(directory(share, witness=Witness(bytes_left=killed_after)), source)
    part = share / JOB / "000020.epoch-1.part"
    arrived = [json.loads(line)["path"] for line in (part / transfer.ARRIVED).read_text().splitlines()]
    times = {path: (part / path).stat().st_mtime_ns for path in arrived}
    begun = {path.name: path.stat().st_size for path in part.rglob("*.part")}
    assert directory(share).names() == {}, "a copy in the making is none"
    witness = Witness()
    put(directory(share, witness=witness), source)
    assert {path: (share / JOB / "000020" / path).stat().st_mtime_ns for path in arrived} == times
    assert content(share / JOB / "000020") == content(source)
    for name, size in begun.items():
        assert size == 0 or size in witness.went, f"{name} was begun anew"


def test_a_run_after_it_takes_up_what_an_earlier_epoch_began(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    late = directory(share, epoch=1, witness=Witness(bytes_left=70_000))
    with pytest.raises(KeyboardInterrupt):
        put(late, source)
    arrived = share / JOB / "000020.epoch-1.part" / "pretrained_model" / "model.safetensors"
    before = arrived.stat().st_mtime_ns
    put(directory(share, epoch=3), source)
    assert (share / JOB / "000020/pretrained_model/model.safetensors").stat().st_mtime_ns == before
    # And the earlier one, waking up, finds nothing of its own to go on with or to finish.
    with pytest.raises(FileNotFoundError):
        (share / JOB / "000020.epoch-1.part").rename(share / JOB / "000020")


def test_nothing_is_copied_while_a_later_epoch_copies(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    (share / JOB / "000030.epoch-3.part").mkdir(parents=True)
    with pytest.raises(OwnershipLost):
        put(directory(share, epoch=2), source)
    assert not (share / JOB / "000020").exists()


@pytest.mark.parametrize("looks", range(9))
def test_past_the_lease_no_copy_appears(share: Path, tmp_path: Path, looks: int) -> None:
    """At each of the places where it asks; the copy of before stays as it was."""
    before = Path(checkpoint(tmp_path / "before", 20, seed=b"other").path)
    put(directory(share), before)
    source = Path(checkpoint(tmp_path / "here", 20, epoch=2).path)
    asked = Witness()
    limit = looks_of(asked, source, tmp_path)
    witness = Witness(looks_left=min(looks, limit - 1), end=lambda: OwnershipLost("over"))
    with pytest.raises(OwnershipLost):
        put(directory(share, epoch=2, witness=witness), source)
    assert content(share / JOB / "000020") == content(before)


def test_a_lease_that_ends_when_all_has_arrived_shows_nothing(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    part = share / JOB / "000020.epoch-1.part"

    def must() -> None:
        if (part / MANIFEST).exists():
            raise OwnershipLost("the lease is over")

    hooks = TransferHooks(count=lambda size: None, require_lease=must, expect=lambda size: None)
    with pytest.raises(OwnershipLost):
        put(ReplicaDirectory(str(share), JOB, epoch=1, hooks=hooks), source)
    assert directory(share).names() == {}


def looks_of(witness: Witness, source: Path, tmp_path: Path) -> int:
    """How often a whole copy looks at the lease."""
    (tmp_path / "count").mkdir()
    put(directory(tmp_path / "count", witness=witness), source)
    return 10**12 - witness.looks_left


def test_a_copy_of_another_epochs_step_is_replaced_in_one_move(share: Path, tmp_path: Path) -> None:
    put(directory(share), Path(checkpoint(tmp_path / "before", 20, seed=b"other").path))
    source = Path(checkpoint(tmp_path / "here", 20, epoch=2).path)
    place = directory(share, epoch=2)
    put(place, source)
    assert content(share / JOB / "000020") == content(source)
    place.prune(2, ())
    assert sorted(path.name for path in (share / JOB).iterdir()) == ["000020"]


def test_bytes_that_changed_on_the_way_are_seen_and_sent_again(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    with pytest.raises(KeyboardInterrupt):
        put(directory(share, witness=Witness(bytes_left=30_000)), source)
    part = next((share / JOB).rglob("*.part/**/*.part"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(TransferCorrupted, match="arrived with other bytes"):
        put(directory(share), source)
    put(directory(share), source)
    assert content(share / JOB / "000020") == content(source)


def test_a_damaged_checkpoint_is_not_copied(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    model = source / "pretrained_model/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged, match=r"model.safetensors has other bytes"):
        put(directory(share), source)
    assert directory(share).names() == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes(9)),
    ],
    ids=["gone", "short", "empty", "zeros"],
)
def test_a_damaged_copy_does_not_come_back(share: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    put(directory(share), Path(checkpoint(tmp_path / "here", 20).path))
    damage(share / JOB / "000020/training_state/optimizer_state.safetensors")
    with pytest.raises(Damaged, match=r"optimizer_state.safetensors (is gone|has other bytes)"):
        directory(share, epoch=2).fetch("000020", tmp_path / "back")
    assert not (tmp_path / "back" / MANIFEST).exists()


@pytest.mark.parametrize(
    "text", ["", "{", '{"step": 20, "epoch": 1, "files": {}}', '{"step": 10, "epoch": 1, "files": {}}'],
)  # fmt: skip
def test_a_copy_whose_manifest_is_none_is_damaged(share: Path, tmp_path: Path, text: str) -> None:
    put(directory(share), Path(checkpoint(tmp_path / "here", 20).path))
    (share / JOB / "000020" / MANIFEST).write_text(text)
    with pytest.raises(Damaged, match="manifest"):
        directory(share, epoch=2).fetch("000020", tmp_path / "back")


def test_a_manifest_that_names_files_elsewhere_is_refused(share: Path, tmp_path: Path) -> None:
    put(directory(share), Path(checkpoint(tmp_path / "here", 20).path))
    manifest = share / JOB / "000020" / MANIFEST
    told = json.loads(manifest.read_text())
    told["files"]["../../../../escaped"] = told["files"]["pretrained_model/config.json"]
    manifest.write_text(json.dumps(told))
    with pytest.raises(Damaged, match="escaped"):
        directory(share, epoch=2).fetch("000020", tmp_path / "back")


def test_the_newest_copies_stay_and_what_nobody_will_finish_goes(share: Path, tmp_path: Path) -> None:
    place = directory(share, epoch=2)
    for step in (10, 20, 30, 40):
        put(place, Path(checkpoint(tmp_path / "here", step).path))
    for name in ("000005.epoch-1.part", "000006.bad", "000050.epoch-3.part"):
        (share / JOB / name).mkdir()
    (share / JOB / "notes.txt").write_text("mine")
    assert place.prune(2, (10,)) == [20]
    left = sorted(path.name for path in (share / JOB).iterdir())
    assert left == ["000010", "000030", "000040", "000050.epoch-3.part", "notes.txt"]


def test_where_the_place_is_not_there_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a box that lacks the shared disk the copies would fill its system disk."""
    source = Path(checkpoint(tmp_path / "here", 20).path)
    missing = tmp_path / "autodl-fs"
    monkeypatch.setattr(replica_directory, "_on_system_disk", lambda path: True)
    with pytest.raises(TargetUnusable, match="is not there on this box: mount it, or make it"):
        put(directory(missing), source)
    assert not missing.exists()
    monkeypatch.setattr(replica_directory, "_on_system_disk", lambda path: False)
    assert put(directory(missing), source)


def test_a_place_that_is_a_file_or_closed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert replica_directory.unusable(tmp_path / "file") == f"{tmp_path / 'file'} is no directory"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "can't be written to" in replica_directory.unusable(tmp_path)


def test_a_place_without_room_is_told_before_anything_is_sent(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 20).path)
    manifest, text = transfer.read_manifest(source)
    huge = type(manifest)(step=20, epoch=1, files={
        path: type(file)(bytes=10**15, sha256=file.sha256) for path, file in manifest.files.items()
    })  # fmt: skip
    with pytest.raises(TargetUnusable, match=r"free and the copy needs \d+.\d GB: make room there"):
        directory(share).put(source, huge, text)
    assert list((share / JOB).iterdir()) == []
