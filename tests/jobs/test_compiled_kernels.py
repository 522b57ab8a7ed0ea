"""Compiled kernels that travel: what they are keyed by, and which manifests are taken."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs import compiled_kernels
from pi0q.jobs.checkpoint import File
from pi0q.jobs.compiled_kernels import BadArchive, CompiledFor, Manifest

FOR = CompiledFor(
    gpus=("NVIDIA H200 9.0",),
    driver="570.86",
    processor="",
    python="3.12.3",
    torch="2.11.0",
    cuda="13.0",
    triton="3.6.0",
    lerobot="0.6.1",
    train={"policy.type": "pi0", "batch_size": 32},
    features={"observation.images.top": "video [480, 640, 3]"},
)
FILE = File(bytes=3, sha256="ab" * 32)


def text(**changes: Any) -> str:
    whole = json.loads(Manifest(compiled_for=FOR.to_json(), archive=FILE, files={"inductor/a/b.py": FILE}).to_text())
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    "other",
    [
        {"gpus": ("NVIDIA H100 9.0",)},
        {"gpus": ("NVIDIA H200 9.0", "NVIDIA H200 9.0")},
        {"driver": "570.87"},
        {"torch": "2.11.1"},
        {"cuda": "12.8"},
        {"triton": "3.6.1"},
        {"lerobot": "0.6.2"},
        {"python": "3.12.4"},
        {"train": {"policy.type": "pi0", "batch_size": 16}},
        {"features": {}},
    ],
)
def test_key_differs_where_anything_that_kernels_depend_on_differs(other: dict[str, Any]) -> None:
    assert replace(FOR, **other).key != FOR.key


def test_key_is_the_same_whatever_the_order_of_flags_and_features() -> None:
    turned = replace(FOR, train=dict(reversed(list(FOR.train.items()))))
    assert turned.key == FOR.key and len(FOR.key) == 64


def test_shaping_flags_are_the_policys_and_the_batch_and_name_no_path_and_no_learning_rate() -> None:
    flags: dict[str, Any] = {
        "policy.type": "pi0",
        "policy.dtype": "bfloat16",
        "policy.compile_mode": "max-autotune",
        "batch_size": 32,
        "policy.pretrained_path": "/data/snapshot",
        "policy.optimizer_lr": 1e-4,
        "policy.push_to_hub": False,
        "steps": 5,
        "seed": 1,
        "dataset.root": "/data/x",
    }
    assert set(compiled_kernels.shaping_flags(flags)) == {
        "policy.type", "policy.dtype", "policy.compile_mode", "batch_size",
    }  # fmt: skip


def test_input_shapes_are_those_of_observations_and_actions_and_of_nothing_else_that_a_file_holds() -> None:
    info = {
        "features": {
            "observation.state": {"dtype": "float32", "shape": [6]},
            "action": {"dtype": "float32", "shape": [6]},
            "timestamp": {"dtype": "float32", "shape": [1]},
            "observation.odd": "no feature",
        }
    }
    assert compiled_kernels.input_shapes(info) == {"observation.state": "float32 [6]", "action": "float32 [6]"}
    unreadable: list[Any] = [None, [], {"features": []}, {"features": None}, "x"]
    for odd in unreadable:
        assert compiled_kernels.input_shapes(odd) == {}


def test_manifest_is_read_as_it_was_written() -> None:
    manifest = Manifest.from_text(text(), key=FOR.key)
    assert (manifest.key, manifest.bytes, manifest.archive) == (FOR.key, 3, FILE)
    assert Manifest.from_text(manifest.to_text(), key=FOR.key) == manifest


def test_manifest_for_another_gpu_is_refused() -> None:
    with pytest.raises(BadArchive, match="compiled for something else"):
        Manifest.from_text(text(), key=replace(FOR, gpus=("NVIDIA H100 9.0",)).key)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "inductor/../../x",
        "inductor/..",
        "inductor//x",
        "inductor/./x",
        "other/x",
        "inductor",
        "inductor/",
        "inductor/a\nb",
        "inductor/a\x00b",
        "triton/\u202e",
        "inductor/" + "a" * 500,
    ],
)
def test_manifest_with_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(BadArchive):
        Manifest.from_text(text(files={path: vars(FILE)}), key=FOR.key)


@pytest.mark.parametrize(
    "file",
    [
        {"bytes": -1, "sha256": "ab" * 32},
        {"bytes": True, "sha256": "ab" * 32},
        {"bytes": 1.5, "sha256": "ab" * 32},
        {"bytes": 2**50, "sha256": "ab" * 32},
        {"bytes": 1, "sha256": "AB" * 32},
        {"bytes": 1, "sha256": "x"},
        {"bytes": 1},
        [],
        None,
    ],
)
def test_manifest_with_a_size_or_hash_that_is_none_is_refused(file: Any) -> None:
    with pytest.raises(BadArchive):
        Manifest.from_text(text(files={"inductor/x": file}), key=FOR.key)
    with pytest.raises(BadArchive):
        Manifest.from_text(text(archive=file), key=FOR.key)


@pytest.mark.parametrize("whole", ["", "[]", "null", '"x"', "{}", "[" * 100_000, '{"compiled_for": 1}'])
def test_text_that_is_no_manifest_is_refused(whole: str) -> None:
    with pytest.raises(BadArchive):
        Manifest.from_text(whole, key=FOR.key)


def test_manifest_of_too_many_files_or_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"inductor/{number}": vars(FILE) for number in range(11)}
    monkeypatch.setattr(compiled_kernels, "MOST_FILES", 10)
    with pytest.raises(BadArchive, match="more than"):
        Manifest.from_text(text(files=many), key=FOR.key)
    monkeypatch.setattr(compiled_kernels, "MOST_FILES", 11)
    monkeypatch.setattr(compiled_kernels, "MOST_BYTES", 32)
    with pytest.raises(BadArchive, match="more than"):
        Manifest.from_text(text(files=many), key=FOR.key)
