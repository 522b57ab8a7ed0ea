"""What a box knows of the weights that a job starts from, where its record says nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.estimates.base_facts import BaseFacts
from pi0q.jobs.record import from_hash
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.claims.bases import Bases
from pi0q.workers.host import base_files
from tests.queue.test_base_lookup import weights

JOB = from_hash({"id": "a1a1a1a1a1a1", "name": "n", "state": "queued", "created_ms": "5"})


def lay(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"type": "act"}')
    (directory / "model.safetensors").write_bytes(weights())
    return directory


def spec(base: object) -> Spec:
    return Spec(name="x", train={"dataset.repo_id": "l/d", "policy.path": str(base)})


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    return Bases(Settings(home=tmp_path / "home", hf_home=tmp_path / "hf"))


def test_a_directory_of_the_box_is_read(bases: Bases) -> None:
    found = bases.of(JOB, spec(lay(bases.settings.home / "weights")))
    assert found and (found.policy, found.params) == ("act", 310_000)


def test_a_directory_that_the_owner_does_not_allow_is_not_read(bases: Bases, tmp_path: Path) -> None:
    limited = Bases(replace(bases.settings, weights_roots=(tmp_path / "allowed",)))
    assert limited.of(JOB, spec(lay(tmp_path / "elsewhere"))) is None


def test_a_snapshot_of_the_cache_is_read_at_the_pinned_commit(bases: Bases) -> None:
    sha = "c0ffee00" * 5
    snapshot = lay(bases.settings.hf_home / "hub" / "models--you--base" / "snapshots" / sha)
    blob = snapshot.parents[1] / "blobs" / "x"
    blob.parent.mkdir()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert bases.of(JOB, spec("you/base")) is None
    found = bases.of(replace(JOB, pins={"you/base": sha}), spec("you/base"))
    assert found and found.params == 310_000


def test_what_the_record_says_wins(bases: Bases) -> None:
    told = BaseFacts(policy="pi0", params=5)
    assert bases.of(replace(JOB, base=told), spec(lay(bases.settings.home / "weights"))) == told


def test_a_sharded_model_and_an_adapter_are_read(tmp_path: Path) -> None:
    model = lay(tmp_path / "model")
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    found = base_files.read(model)
    assert found and found.params == 310_000
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    assert base_files.read(model) is None
    (model / "adapter_config.json").write_text("{}")
    adapter = base_files.read(model)
    assert adapter and adapter.adapter and not adapter.params


def test_a_link_out_of_the_repository_is_not_followed(bases: Bases, tmp_path: Path) -> None:
    secret = lay(tmp_path / "secret")
    sha = "c0ffee00" * 5
    snapshot = bases.settings.hf_home / "hub" / "models--you--base" / "snapshots" / sha
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(secret / name)
    assert bases.of(replace(JOB, pins={"you/base": sha}), spec("you/base")) is None
