"""Shape of a training: all that its VRAM depends on, whatever box it runs on. Pure.

Two jobs of one shape take the same VRAM. A flag of the policy that is not known to change nothing belongs to the
shape: a shape too many costs one estimate, a shape too few an out-of-memory.
"""

from __future__ import annotations

import json
from typing import Any

from pi0q.jobs.dataset import Images
from pi0q.jobs.schema import trained_model
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.spec import Spec

#: Settings of a policy or reward model that change nothing of what a training step holds.
WITHOUT = frozenset({
    "device", "push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path", "pretrained_revision",
    "optimizer_lr", "optimizer_lr_backbone", "optimizer_weight_decay", "optimizer_betas", "optimizer_eps",
    "optimizer_grad_clip_norm", "scheduler_warmup_steps", "scheduler_decay_steps", "scheduler_decay_lr",
    "scheduler_name", "n_action_steps", "temporal_ensemble_coeff", "kl_weight", "dropout", "normalization_mapping",
    "time_sampling_beta_alpha", "time_sampling_beta_beta", "time_sampling_scale", "time_sampling_offset",
    "min_period", "max_period", "num_inference_steps",
})  # fmt: skip


def of(spec: Spec, images: Images, *, lerobot_line: str, gpus: int) -> dict[str, Any]:
    """Return the shape as plain values, in an order of its own.

    Args:
        images: Of its dataset.
        lerobot_line: The line of LeRobot that trains it, like "0.6".
        gpus: How many GPUs it trains on.
    """
    train, section = spec.train, trained_model.section(spec.train)
    model = {
        name: value
        for name, value in train.items()
        if name.startswith(f"{section}.") and name.partition(".")[2] not in WITHOUT
    }
    return {
        "batch_size": number(train, "batch_size"),
        "cameras": images.cameras,
        "gpus": gpus,
        "height": images.height,
        "lerobot": lerobot_line,
        "mixed_precision": spec.mixed_precision,
        "model": dict(sorted(model.items())),
        "optimizer": train.get("optimizer.type"),
        "peft": {name: value for name, value in sorted(train.items()) if name.startswith("peft.")},
        # From weights or from nothing: LeRobot builds the model in another way then.
        "pretrained": bool(trained_model.setting(train, "pretrained_path")),
        "rename_map": train.get("rename_map"),
        "width": images.width,
    }


def text(shape: dict[str, Any]) -> bytes:
    """Return the shape as canonical JSON: the same bytes for the same shape."""
    return json.dumps(shape, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str).encode()
