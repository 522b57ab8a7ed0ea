"""Facts of a base out of files that strangers wrote, and the estimates that follow from them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.dataset import Images
from pi0q.jobs.errors import BadRecord
from pi0q.jobs.estimates import base_facts, disk, job_needs, policy_sizes
from pi0q.jobs.estimates.base_facts import BaseFacts, facts, files_of, header_bytes, tensors
from pi0q.jobs.estimates.policy_sizes import informed
from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.spec import Spec

CONFIG = json.dumps({"type": "act", "dtype": "bfloat16", "freeze_vision_encoder": True, "n_heads": 8}).encode()
IMAGES = Images(cameras=2, height=480, width=640)


def header(**told: Any) -> bytes:
    """A header of tensors, each as (format, shape)."""
    found, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (form, shape) in told.items():
        size = base_facts.FORMATS[form]
        for side in shape:
            size *= side
        found[name] = {"dtype": form, "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    return json.dumps(found).encode()


PI0_LIKE = {
    "model.paligemma_with_expert.paligemma.model.vision_tower.x.weight": ("F32", [10, 10]),
    "model.paligemma_with_expert.paligemma.model.language_model.x.weight": ("BF16", [100, 10]),
    "model.paligemma_with_expert.gemma_expert.model.layers.0.x.weight": ("BF16", [20, 10]),
    "model.action_in_proj.weight": ("F32", [5]),
}


def test_facts_count_parameters_by_module_and_format() -> None:
    found = facts(CONFIG, tensors(header(**PI0_LIKE)))
    assert found == BaseFacts(
        policy="act",
        params=1305,
        vision=100,
        expert=205,
        bytes=100 * 4 + 1000 * 2 + 200 * 2 + 5 * 4,
        narrow=True,
        settings={"dtype": "bfloat16", "freeze_vision_encoder": True},
    )


def entry(**change: Any) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **change}}).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"{",
        b'{"w": 5}',
        b'{"w": {}}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "w": {}}',
        b"\xff",
        b"[" * 100_000,
        b'{"w": NaN}',
        entry(dtype="F99"),
        entry(dtype=["F32"]),
        entry(shape=[-2, -3]),
        entry(shape=[2.0, 3]),
        entry(shape="23"),
        entry(shape=[True, 6]),
        entry(shape=[2**40, 2**40]),
        entry(shape=[1] * 9),
        entry(shape=[0, 2**60]),
        entry(data_offsets=[0, 23]),
        entry(data_offsets=[24, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets="ab"),
    ],
    ids=lambda bad: repr(bad[:40]),
)
def test_a_header_that_safetensors_would_not_write_is_refused(bad: bytes) -> None:
    assert len(tensors(entry())) == 1
    with pytest.raises(ValueError):
        tensors(bad)


@pytest.mark.parametrize("first", [b"", b"1234567", b"\x00" * 8, (2**63).to_bytes(8, "little"), b"\x01" + b"\x00" * 7])
def test_a_header_of_no_size_is_not_read(first: bytes) -> None:
    assert header_bytes((100).to_bytes(8, "little")) == 100
    with pytest.raises(ValueError, match="header has"):
        header_bytes(first)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        [],
        "x",
        {"a": "../../etc/passwd"},
        {"a": "x.bin"},
        {"a": 5},
        {str(n): f"{n}.safetensors" for n in range(201)},
    ],
)
def test_an_index_names_files_beside_it_alone(weights: Any) -> None:
    good = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    assert len(files_of(json.dumps(good).encode())) == 2
    with pytest.raises(ValueError, match="names no safetensors"):
        files_of(json.dumps({"weight_map": weights}).encode())


@pytest.mark.parametrize(
    ("config", "policy", "settings"),
    [
        ({}, "", {}),
        ({"type": "../x", "dtype": 5, "compile_model": "yes"}, "", {}),
        ({"type": ["act"], "dtype": "x" * 1000}, "", {}),
        ({"type": "act", "gradient_checkpointing": False}, "act", {"gradient_checkpointing": False}),
    ],
)
def test_a_config_gives_only_what_it_may(config: Any, policy: str, settings: Any) -> None:
    found = facts(json.dumps(config).encode(), ())
    assert (found.policy, found.settings) == (policy, settings)


# -- the record ---------------------------------------------------------------------------------------


def record(text: str) -> Record:
    return from_hash({"id": "b" * 12, "name": "n", "state": "queued", "created_ms": "5", "base": text})


def test_a_record_keeps_facts() -> None:
    found = facts(CONFIG, tensors(header(**PI0_LIKE)))
    assert record(to_hash({"base": found.to_json()})["base"]).base == found
    assert record("").base is None


@pytest.mark.parametrize(
    "change",
    [
        {"params": -1},
        {"params": 5},
        {"policy": "A B"},
        {"narrow": 1},
        {"settings": {"x": 1}},
        {"settings": {"dtype": 1}},
        {"y": 1},
    ],
)
def test_a_record_refuses_facts_that_pi0q_does_not_write(change: dict[str, Any]) -> None:
    found = facts(CONFIG, tensors(header(**PI0_LIKE))).to_json()
    with pytest.raises(BadRecord, match="base is not facts of a base as JSON"):
        record(to_hash({"base": found | change})["base"])


# -- estimates ----------------------------------------------------------------------------------------


def spec(**train: Any) -> Spec:
    return Spec(name="x", train={"dataset.repo_id": "you/box", **{k.replace("__", "."): v for k, v in train.items()}})


def needs(one: Spec, base: BaseFacts | None) -> job_needs.Needs:
    return job_needs.estimate(one, images=IMAGES, base=base)


def test_a_policy_by_path_is_estimated_as_what_it_is() -> None:
    by_path = spec(policy__path="you/my_finetune")
    base = BaseFacts(policy="act", params=52_000_000, bytes=208_000_000)
    assert needs(by_path, base).vram_mib == needs(spec(policy__type="act"), None).vram_mib
    assert needs(by_path, None).vram_mib > 10 * needs(by_path, base).vram_mib
    assert "a guess" not in needs(by_path, base).why[1]


def test_settings_of_a_policy_by_path_count_unless_the_file_says_otherwise() -> None:
    base = BaseFacts(policy="pi0", params=3_500_000_000, bytes=14_000_000_000, settings={"dtype": "bfloat16"})
    by_path = spec(policy__path="you/my_pi0")
    assert needs(by_path, base).vram_mib == needs(spec(policy__type="pi0", policy__dtype="bfloat16"), None).vram_mib
    wide = needs(spec(policy__path="you/my_pi0", policy__dtype="float32"), base)
    assert wide.vram_mib == needs(spec(policy__type="pi0", policy__dtype="float32"), None).vram_mib


def test_a_base_of_the_size_that_was_counted_changes_nothing() -> None:
    one = spec(policy__type="pi0", policy__pretrained_path="you/pi0")
    assert not policy_sizes.by_header(informed(one, BaseFacts(policy="pi0", params=3_500_000_000)))
    assert needs(one, BaseFacts(policy="pi0", params=3_500_000_000)).vram_mib == needs(one, None).vram_mib


def test_a_smaller_variant_of_a_known_policy_needs_less_and_says_how_sure() -> None:
    one = spec(policy__type="pi0", policy__pretrained_path="you/small_pi0")
    small = needs(one, BaseFacts(policy="pi0", params=600_000_000, bytes=2_400_000_000))
    # Activations are taken to be those of the whole model.
    assert small.vram_mib < needs(one, None).vram_mib - 16 * 1024
    assert "by the parameters that its base's header names" in small.why[1] and "off by half" in small.why[1]


def test_a_policy_that_nobody_counted_is_estimated_from_its_parameters() -> None:
    one = spec(policy__type="xvla", policy__pretrained_path="you/x")
    small, large = (
        needs(one, BaseFacts(policy="xvla", params=params, bytes=4 * params)) for params in (10**8, 3 * 10**9)
    )
    assert small.vram_mib < large.vram_mib and "header names" in large.why[1]
    # Weights and Adam's state of what is trained: 16 bytes a parameter at the least.
    assert large.vram_mib * 2**20 > 16 * 3 * 10**9


def test_weights_of_another_policy_say_nothing() -> None:
    one = spec(policy__type="act", policy__pretrained_path="you/x")
    assert needs(one, BaseFacts(policy="pi0", params=10**10)).vram_mib == needs(one, None).vram_mib


def test_disk_of_a_base_is_the_size_of_its_files() -> None:
    one = spec(policy__type="act", policy__pretrained_path="you/x")
    (item,) = [item for item in needs(one, BaseFacts(policy="act", bytes=3 << 30)).disk.items if item.kind == "base"]
    assert item.mib == 3072 and disk.gib(item.mib) == "3.0 GiB"


def test_an_adapter_says_nothing_of_the_models_size() -> None:
    one = spec(policy__type="pi0", policy__pretrained_path="you/x", policy__use_peft=True)
    base = BaseFacts(policy="pi0", adapter=True, bytes=5)
    assert needs(one, base).vram_mib == needs(one, None).vram_mib
    assert replace(one, base=base) == one
