"""Checkpoints: sealed, verified, pruned; what does not verify is never used and never in the way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pi0q.jobs.checkpoint import MANIFEST, REQUIRED, WEIGHTS
from pi0q.workers.checkpoints import local_store
from pi0q.workers.runs import lease
from tests.workers.checkpoints.conftest import Logged

Harm = Callable[[Path], object]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def written(checkpoints: Path, step: int) -> Path:
    """A checkpoint as LeRobot leaves it."""
    place = checkpoints / f"{step:06d}"
    for name in (*REQUIRED, WEIGHTS, "training_state/rng_state.safetensors"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(f"{name} of {step}".encode() * 100)
    return place


def sealed(checkpoints: Path, step: int) -> Path:
    place = written(checkpoints, step)
    local_store.seal(place, step=step, epoch=1)
    return place


def newest(checkpoints: Path) -> int | None:
    found = local_store.newest(checkpoints)
    return found.step if found else None


def names(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def test_a_seal_names_every_file_and_its_own_digest(checkpoints: Path) -> None:
    place = written(checkpoints, 10)
    saved = local_store.seal(place, step=10, epoch=3)
    manifest = json.loads((place / MANIFEST).read_text())
    assert (manifest["step"], manifest["epoch"]) == (10, 3)
    assert set(manifest["files"]) == {*REQUIRED, WEIGHTS, "training_state/rng_state.safetensors"}
    assert saved.bytes == sum((place / name).stat().st_size for name in manifest["files"])
    assert not list(place.glob("*.new"))
    assert local_store.newest(checkpoints) == saved


@pytest.mark.parametrize("name", [*REQUIRED, WEIGHTS])
def test_what_is_not_whole_is_not_sealed(checkpoints: Path, name: str) -> None:
    place = written(checkpoints, 10)
    (place / name).unlink()
    with pytest.raises(ValueError, match=f"000010 lacks {name}"):
        local_store.seal(place, step=10, epoch=1)
    assert not (place / MANIFEST).exists()


def test_the_newest_is_taken_whatever_last_says(checkpoints: Path) -> None:
    for step in (10, 20, 30):
        sealed(checkpoints, step)
    (checkpoints / "last").symlink_to("000010")
    assert newest(checkpoints) == 30
    assert (checkpoints / "last").readlink() == Path("000030")


def test_a_lost_last_link_is_made_again(checkpoints: Path) -> None:
    sealed(checkpoints, 10)
    (checkpoints / ".last.new").symlink_to("nowhere")
    assert newest(checkpoints) == 10
    assert (checkpoints / "last").resolve() == checkpoints / "000010"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero_tail(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size - 10)
    os.truncate(path, size)


MODEL, OPTIMIZER = "pretrained_model/model.safetensors", "training_state/optimizer_state.safetensors"
HARMS: dict[str, tuple[Harm, str]] = {
    "truncated": (lambda place: os.truncate(place / OPTIMIZER, 100), "has 100 bytes instead of"),
    "a bit flipped": (lambda place: flip(place / MODEL), "has other bytes than were saved"),
    "a tail of zeros": (lambda place: zero_tail(place / MODEL), "has other bytes than were saved"),
    "a file gone": (lambda place: (place / "training_state/rng_state.safetensors").unlink(), "is gone"),
    "no manifest": (lambda place: (place / MANIFEST).unlink(), "was never finished"),
    "half a manifest": (lambda place: os.truncate(place / MANIFEST, 100), "its manifest can't be read"),
    "another manifest": (lambda place: (place / MANIFEST).write_text("[]"), "its manifest can't be read"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_one_is_moved_aside_and_the_one_before_it_taken(checkpoints: Path, logged: Logged, harm: str) -> None:
    sealed(checkpoints, 10)
    place = sealed(checkpoints, 20)
    do, words = HARMS[harm]
    do(place)
    assert newest(checkpoints) == 10
    said = logged.take()
    assert len(said) == 1 and words in said[0] and said[0].endswith("it is moved aside")
    assert names(checkpoints) == ["000010", "000020.bad", "last"]
    # LeRobot comes to that step again and finds nothing in its way; neither does a second harm.
    sealed(checkpoints, 20)
    do(checkpoints / "000020")
    assert newest(checkpoints) == 10


def test_when_none_verifies_there_is_none(checkpoints: Path) -> None:
    written(checkpoints, 10)
    assert newest(checkpoints) is None
    assert newest(checkpoints) is None
    assert newest(checkpoints / "nowhere") is None


def test_the_newest_are_kept_and_no_unsealed_one_is_touched(checkpoints: Path) -> None:
    for step in (10, 20, 30, 40):
        sealed(checkpoints, step)
    written(checkpoints, 5)
    (checkpoints / "last").symlink_to("000040")
    assert local_store.prune(checkpoints, 2) == [10, 20]
    assert names(checkpoints) == ["000005", "000030", "000040", "last"]
    assert local_store.prune(checkpoints, 0) == [30], "one is always kept"


def test_steps_are_numbers_not_names(checkpoints: Path) -> None:
    for name in ("999990", "1000000"):
        place = written(checkpoints, int(name))
        local_store.seal(place, step=int(name), epoch=1)
    assert newest(checkpoints) == 1_000_000
    assert local_store.prune(checkpoints, 1) == [999_990]


def test_what_was_moved_aside_goes_when_a_good_one_follows(checkpoints: Path) -> None:
    local_store.seal(written(checkpoints, 10), step=10, epoch=1)
    (written(checkpoints, 20)).rename(checkpoints / "000020.bad")
    local_store.seal(written(checkpoints, 30), step=30, epoch=2)
    assert local_store.prune(checkpoints, keep=2) == []
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000010", "000030"]


def test_a_full_disk_keeps_only_what_is_sealed(checkpoints: Path) -> None:
    local_store.seal(written(checkpoints, 10), step=10, epoch=1)
    written(checkpoints, 20)
    written(checkpoints, 30).rename(checkpoints / "000030.bad")
    assert local_store.make_room(checkpoints) == [20]
    assert names(checkpoints) == ["000010"]
    assert local_store.make_room(checkpoints / "none") == []


def test_a_whole_save_that_a_full_disk_left_without_its_manifest_stays(checkpoints: Path) -> None:
    local_store.seal(written(checkpoints, 10), step=10, epoch=1)
    local_store.update_last_link(written(checkpoints, 20))
    assert local_store.make_room(checkpoints) == []
    found = local_store.newest(checkpoints, late=2)
    assert found and found.step == 20


@pytest.mark.parametrize(("number", "step"), [(errno.EIO, 10), (errno.ENOSPC, 20)])
def test_a_whole_save_that_can_t_be_read_costs_no_older_one(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    """It is passed over for the one before; a disk that is full says nothing of it, and it is tried again."""
    local_store.seal(written(checkpoints, 10), step=10, epoch=1)
    local_store.update_last_link(written(checkpoints, 20))

    def refused(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(local_store, "_settled", refused)
        with pytest.raises(OSError) if number == errno.ENOSPC else contextlib.nullcontext():
            found = local_store.newest(checkpoints, late=2)
            assert found and found.step == 10
    found = local_store.newest(checkpoints, late=2)
    assert found and found.step == step


# Only while the lease is ours


def ours_for(looks: int) -> Callable[[], bool]:
    """Ours for that many looks, and then not any more."""
    left = iter([True] * looks)
    return lambda: next(left, False)


@pytest.mark.parametrize("looks", [0, 1])
def test_nothing_is_sealed_after_the_lease(checkpoints: Path, looks: int) -> None:
    """Hashing 22 GB takes half a minute: what counts is the moment before the manifest gets its name."""
    place = written(checkpoints, 10)
    with pytest.raises(lease.LeaseExpired):
        local_store.seal(place, step=10, epoch=1, may_write=ours_for(looks))
    assert not (place / MANIFEST).exists()


def test_nothing_is_removed_after_the_lease(checkpoints: Path) -> None:
    for step in (10, 20, 30, 40):
        sealed(checkpoints, step)
    with pytest.raises(lease.LeaseExpired):
        local_store.prune(checkpoints, 1, may_write=ours_for(1))
    assert names(checkpoints) == ["000020", "000030", "000040"]


@pytest.mark.parametrize("do", [lambda place: (place / MANIFEST).unlink(), lambda place: flip(place / MODEL)])
def test_nothing_is_moved_aside_after_the_lease(checkpoints: Path, do: Harm) -> None:
    do(sealed(checkpoints, 10))
    with pytest.raises(lease.LeaseExpired):
        local_store.newest(checkpoints, may_write=ours_for(0))
    assert names(checkpoints) == ["000010"]


def test_last_is_not_pointed_anywhere_after_the_lease(checkpoints: Path) -> None:
    sealed(checkpoints, 10)
    with pytest.raises(lease.LeaseExpired):
        local_store.newest(checkpoints, may_write=ours_for(0))
    assert not (checkpoints / "last").is_symlink()


# Finished by LeRobot, and its runner died before it was sealed


def finished(checkpoints: Path, step: int) -> Path:
    place = written(checkpoints, step)
    local_store.update_last_link(place)
    return place


def test_complete_save_without_manifest_is_sealed_late(checkpoints: Path, logged: Logged) -> None:
    """I3: its runner was killed while it hashed."""
    sealed(checkpoints, 10)
    place = finished(checkpoints, 20)
    found = local_store.newest(checkpoints, late=7)
    assert found is not None and (found.step, found.path) == (20, str(place))
    assert json.loads((place / MANIFEST).read_text())["epoch"] == 7
    assert "checkpoint 20 was complete when its runner died" in logged.take()[0]
    assert local_store.newest(checkpoints) == found


def test_after_a_restart_of_the_host_it_is_not_trusted(checkpoints: Path) -> None:
    """Its last bytes were in memory only, perhaps: a file of the right length may end in zeros."""
    sealed(checkpoints, 10)
    finished(checkpoints, 20)
    found = local_store.newest(checkpoints, late=None)
    assert found is not None and found.step == 10
    assert "000020.bad" in names(checkpoints)


def not_pointed_to(place: Path) -> None:
    local_store.update_last_link(place.parent / "000010")


def no_link(place: Path) -> None:
    (place.parent / "last").unlink()


def a_required_file_less(place: Path) -> None:
    (place / OPTIMIZER).unlink()


def a_file_less_than_usual(place: Path) -> None:
    (place / "training_state/rng_state.safetensors").unlink()


@pytest.mark.parametrize("harm", [not_pointed_to, no_link, a_required_file_less, a_file_less_than_usual])
def test_unfinished_save_is_not_sealed(checkpoints: Path, harm: Harm) -> None:
    sealed(checkpoints, 10)
    harm(finished(checkpoints, 20))
    found = local_store.newest(checkpoints, late=7)
    assert found is not None and found.step == 10
    assert "000020.bad" in names(checkpoints)
