"""A checkpoint as LeRobot and pi0q leave it, in a moment."""

from __future__ import annotations

import json
from pathlib import Path

from pi0q.jobs.record import Saved
from pi0q.workers.checkpoints import local_store

FILES = {
    "pretrained_model/config.json": b'{"type": "act"}',
    "pretrained_model/train_config.json": b'{"steps": 60}',
    "pretrained_model/model.safetensors": b"w" * 60_000,
    "training_state/optimizer_state.safetensors": b"o" * 120_000,
    "training_state/rng_state.safetensors": b"r" * 800,
}


def checkpoint(checkpoints: Path, step: int, *, epoch: int = 1, seed: bytes = b"") -> Saved:
    """A sealed one; its large files differ by step and seed."""
    directory = checkpoints / f"{step:06d}"
    for path, body in FILES.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(body + b"%d" % step + seed if path.endswith("safetensors") else body)
    (directory / "training_state" / "training_step.json").write_text(json.dumps({"step": step}))
    return local_store.seal(directory, step=step, epoch=epoch)


def content(directory: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
