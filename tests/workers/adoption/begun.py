"""An output directory as LeRobot leaves it, in a moment; the safetensors files have the real format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "jobs" / "importing" / "data" / "train_config.json").read_text("utf-8")
)


def safetensors(size: int = 64) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"w" * size


def checkpoint(output: Path, step: int, *, processes: int = 1, size: int = 64, **config: Any) -> Path:
    """A finished checkpoint below an output directory; `config` changes its train_config.json."""
    place = output / "checkpoints" / f"{step:06d}"
    training = {**CONFIG, "steps": 100, "output_dir": str(output), **config}
    state = {"step": step, "num_processes": processes, "batch_size": 8}
    contents: dict[str, bytes] = {
        "pretrained_model/train_config.json": json.dumps(training, indent=4).encode(),
        "pretrained_model/config.json": json.dumps(training["policy"]).encode(),
        "pretrained_model/model.safetensors": safetensors(size),
        "training_state/training_step.json": json.dumps(state).encode(),
        "training_state/optimizer_state.safetensors": safetensors(size),
        "training_state/rng_state.safetensors": safetensors(8),
    }
    for name, body in contents.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(body)
    return place


def point_last(output: Path, step: int) -> None:
    link = output / "checkpoints" / "last"
    link.unlink(missing_ok=True)
    link.symlink_to(f"{step:06d}")
