"""FAKE: the one random state is that of the standard library's `random`."""

import json
import random
from pathlib import Path

from . import safetensors

RNG_STATE = "rng_state.safetensors"


def save_rng_state(save_dir: Path) -> None:
    safetensors.write(save_dir / RNG_STATE, {"py_rng_state": json.dumps(random.getstate()).encode()})


def load_rng_state(save_dir: Path) -> None:
    kind, numbers, gauss = json.loads(safetensors.read(save_dir / RNG_STATE)["py_rng_state"])
    random.setstate((kind, tuple(numbers), gauss))
