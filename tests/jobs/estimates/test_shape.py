"""What belongs to the shape of a training, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from pi0q.jobs.dataset import Images
from pi0q.jobs.estimates import shape
from pi0q.jobs.spec import Resources, Spec

IMAGES = Images(cameras=2, height=480, width=640)
TRAIN: dict[str, Any] = {
    "dataset.repo_id": "you/box",
    "policy.type": "pi0",
    "policy.dtype": "bfloat16",
    "policy.pretrained_path": "lerobot/pi0",
    "policy.push_to_hub": False,
    "batch_size": 8,
    "steps": 100,
}


def text(images: Images = IMAGES, line: str = "0.6", gpus: int = 1, **changes: Any) -> bytes:
    spec = {name: changes.pop(name) for name in ("name", "mixed_precision", "resources") if name in changes}
    train = {name: value for name, value in {**TRAIN, **changes}.items() if value is not ...}
    one = Spec(**{"name": "x", **spec}, train=train)
    return shape.text(shape.of(one, images, lerobot_line=line, gpus=gpus))


@pytest.mark.parametrize(
    "change",
    [
        {"policy.type": "pi05"},
        {"policy.dtype": "float32"},
        {"policy.pretrained_path": ...},
        {"batch_size": 9},
        {"policy.gradient_checkpointing": True},
        {"policy.compile_model": True},
        {"policy.compile_mode": "max-autotune"},
        {"policy.freeze_vision_encoder": True},
        {"policy.train_expert_only": True},
        {"policy.image_resolution": [256, 256]},
        {"policy.chunk_size": 10},
        {"policy.a_flag_of_tomorrow": 1},
        {"peft.r": 16},
        {"peft.target_modules": "q_proj"},
        {"optimizer.type": "sgd"},
        {"rename_map": {"a": "b"}},
        {"mixed_precision": "bf16"},
        {"images": Images(cameras=3, height=480, width=640)},
        {"images": Images(cameras=2, height=240, width=640)},
        {"images": Images(cameras=2, height=480, width=320)},
        {"line": "0.5"},
        {"gpus": 2},
    ],
    ids=str,
)
def test_another_memory_is_another_shape(change: dict[str, Any]) -> None:
    assert text(**change) != text()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"dataset.repo_id": "you/other"},
        {"dataset.root": "/data/x"},
        {"steps": 5},
        {"save_freq": 7},
        {"num_workers": 9},
        {"seed": 2},
        {"wandb.enable": True},
        {"policy.pretrained_path": "you/finetuned"},
        {"policy.pretrained_revision": "main"},
        {"policy.device": "cuda"},
        {"policy.repo_id": "you/it"},
        {"policy.optimizer_lr": 1e-3},
        {"policy.scheduler_decay_steps": 5},
        {"resources": Resources(vram_mib=5, disk_mib=7)},
    ],
    ids=str,
)
def test_what_changes_no_memory_is_the_same_shape(change: dict[str, Any]) -> None:
    assert text(**change) == text()


def test_a_policy_by_path_is_of_the_shape_of_its_path() -> None:
    by_path: dict[str, Any] = {"policy.type": ..., "policy.pretrained_path": ..., "policy.path": "lerobot/pi0"}
    other = {**by_path, "policy.path": "lerobot/pi0_base"}
    assert text(**by_path) != text(**other)


def test_order_of_the_file_is_none_of_the_shape() -> None:
    spec = Spec(name="x", train=dict(reversed(TRAIN.items())))
    assert shape.text(shape.of(spec, IMAGES, lerobot_line="0.6", gpus=1)) == text()
