"""02h and 06: what others who can write to the directory of copies (`checkpoints.copy_to`) put there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.checkpoint import MANIFEST
from pi0q.workers.checkpoints import transfer
from pi0q.workers.checkpoints.replica_directory import ReplicaDirectory, TargetUnusable, unusable
from pi0q.workers.checkpoints.transfer import TransferHooks
from pi0q.workers.host.own_files import Untrusted
from tests.attacks import evil
from tests.workers.checkpoints.saved import checkpoint

if TYPE_CHECKING:
    from tests.attacks.conftest import Cluster

FREQ = 20
TIMES: dict[str, Any] = {"PI0Q_LEASE_SECONDS": "30", "PI0Q_WAIT_FOR_BOX": "5"}
WATCHED = TransferHooks(count=lambda size: None, require_lease=lambda: None, expect=lambda total: None)
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


def plant(good: Path, step: int, marker: Path) -> Path:
    """A later checkpoint with code in it, whole by a manifest of its own."""
    planted = good.parent / f"{step:06d}"
    shutil.copytree(good, planted)
    (planted / "pretrained_model/policy_preprocessor.json").write_bytes(evil.processors(marker))
    (planted / "training_state/training_step.json").write_text(json.dumps({"step": step}))
    manifest = json.loads((planted / MANIFEST).read_text())
    for name in manifest["files"]:
        body = (planted / name).read_bytes()
        manifest["files"][name] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    (planted / MANIFEST).write_text(json.dumps(manifest | {"step": step}))
    return planted


def test_a_planted_checkpoint_is_not_resumed_from(cluster: Cluster, tmp_path: Path) -> None:
    marker, share = tmp_path / "PWNED", tmp_path / "share"
    share.mkdir()
    first = cluster.box("box-a", **TIMES)
    cluster.slow_down(FREQ + 4)
    job = cluster.submit(steps=200, save_freq=FREQ, checkpoints={"every": None, "copy_to": str(share)})
    copied = cluster.until(job, lambda record: record.copied).copied
    assert copied
    first.crash()
    plant(Path(copied.path), 199, marker)
    shutil.rmtree(first.home)
    cluster.boxes.remove(first)
    cluster.let_lease_run_out(job)
    cluster.speed_up()
    second = cluster.box("box-b", **TIMES, FAKE_STEP_SECONDS="0.001")
    done = cluster.ends(job)
    assert (str(done.state), done.box) == ("succeeded", "box-b"), done.detail
    assert second.events(job, "ready")[0]["step"] == copied.step, "the copy that the record names"
    assert not marker.exists()
    assert f"WARNING: refused the copy of checkpoint 199 in {share}" in second.trainer_log(job)


def as_nobody(link: Path, target: Path, *, below: Path) -> None:
    """Another user makes a link, and the folders above it below this one."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    for path in (link, *link.parents):
        if path == below:
            break
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A directory in which another user may make files; the box's owner has allowed it all the same."""
    place = tmp_path / "ckpt"
    place.mkdir()
    place.chmod(0o777)
    return place


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """What only this user may write."""
    (tmp_path / "private").mkdir(mode=0o700)
    return tmp_path / "private"


def put(share: Path, job: str, tmp_path: Path) -> str:
    source = Path(checkpoint(tmp_path / "here", 4).path)
    manifest, text = transfer.read_manifest(source)
    return ReplicaDirectory(str(share), job, epoch=1, hooks=WATCHED, roots=[share]).put(source, manifest, text)


@needs_root
def test_the_jobs_folder_is_a_link(share: Path, private: Path, tmp_path: Path) -> None:
    as_nobody(share / "job000000001", private, below=share)
    with pytest.raises(Untrusted, match="job000000001 is a link"):
        put(share, "job000000001", tmp_path)
    assert list(private.iterdir()) == []


@needs_root
def test_the_manifest_of_a_part_is_a_link(share: Path, private: Path, tmp_path: Path) -> None:
    bashrc = private / "bashrc"
    bashrc.write_text("export PATH\n")
    as_nobody(share / "job000000002/000004.epoch-1.part" / MANIFEST, bashrc, below=share)
    with pytest.raises(Untrusted, match="belongs to another user"):
        put(share, "job000000002", tmp_path)
    assert bashrc.read_text() == "export PATH\n"


@needs_root
def test_a_file_on_its_way_is_a_link(share: Path, private: Path, tmp_path: Path) -> None:
    database = private / "database"
    database.write_bytes(b"D" * 5_000_000)
    part = share / "job000000003/000004.epoch-1.part/pretrained_model/config.json.part"
    as_nobody(part, database, below=share)
    with pytest.raises(Untrusted, match="belongs to another user"):
        put(share, "job000000003", tmp_path)
    assert database.stat().st_size == 5_000_000


def test_a_link_in_a_folder_of_ones_own_is_not_written_through(tmp_path: Path, private: Path) -> None:
    """As the second and third, from the time before the folder was looked at."""
    (private / "bashrc").write_text("export PATH\n")
    part = tmp_path / "ckpt/job000000004/000004.epoch-1.part"
    (part / "pretrained_model").mkdir(parents=True)
    (part / "pretrained_model/config.json.part").symlink_to(private / "bashrc")
    with pytest.raises(Untrusted, match="is a link"):
        put(tmp_path / "ckpt", "job000000004", tmp_path)
    (part / "pretrained_model/config.json.part").unlink()
    (part / MANIFEST).symlink_to(private / "bashrc")
    with pytest.raises(Untrusted, match="is a link"):
        put(tmp_path / "ckpt", "job000000004", tmp_path)
    assert (private / "bashrc").read_text() == "export PATH\n"


def test_a_directory_that_others_can_write_is_taken_only_from_the_owners_list(share: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(tmp_path / "here", 4).path)
    manifest, text = transfer.read_manifest(source)
    with pytest.raises(TargetUnusable, match=r"can be written by other users \(mode 777\)"):
        ReplicaDirectory(str(share), "job000000005", epoch=1, hooks=WATCHED).put(source, manifest, text)
    assert put(share, "job000000005", tmp_path) == f"{share}/job000000005/000004"


@pytest.mark.parametrize("place", ["/etc", "/root", "/root/.ssh", "/", "/proc", "/dev", "/usr/bin"])
def test_places_that_are_no_jobs(place: str) -> None:
    assert "PI0Q_COPY_ROOTS" in unusable(Path(place), make=False)


@pytest.mark.parametrize("name", ["server", "runs"])
def test_the_directories_of_the_server_and_of_a_box(tmp_path: Path, name: str) -> None:
    (tmp_path / "up.json").touch()
    (tmp_path / name).mkdir()
    assert "belongs to pi0q" in unusable(tmp_path / name, make=False)
