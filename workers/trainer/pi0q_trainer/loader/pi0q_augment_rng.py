"""Random state of image augmentation: what LeRobot's transforms draw depends on the seed, the step and the rank alone.

LeRobot draws them from the random state of whichever process loads the batch, and saves that of none. This file lies
alone in its folder, since a data loader's worker imports it by its name: nothing else may be found beside it.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def fetch(dataset: Any, seed: int, numbered: list[int], rank: int = 0) -> list[Any]:
    """Return the samples of one batch: `numbered` is its step, then their indices. The random state is restored.

    `rank`: of several trainers of one job each draws for its own batch.
    """
    number, *indices = numbered
    words = np.random.SeedSequence([seed, number, *([rank] if rank else [])]).generate_state(4)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(words.tobytes())
    np.random.seed(words)
    # Not torch.manual_seed: that one sets the GPU's state too.
    torch.default_generator.manual_seed(int.from_bytes(words[:2].tobytes(), "little"))
    try:
        return [dataset[index] for index in indices]
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
