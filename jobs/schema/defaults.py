"""What LeRobot takes where a job's file leaves a flag out (configs/train.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STEPS = 100_000
BATCH_SIZE = 8
SAVE_FREQ = 20_000
NUM_WORKERS = 4

_BY_NAME = {"steps": STEPS, "batch_size": BATCH_SIZE, "save_freq": SAVE_FREQ, "num_workers": NUM_WORKERS}


def number(train: Mapping[str, Any], name: str) -> int:
    """Return a whole-number flag of the `train` section, or LeRobot's default."""
    value = train.get(name)
    return value if isinstance(value, int) else _BY_NAME[name]
