"""What is asked of WandB otherwise than LeRobot does."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any


def forgive_unknown_run() -> None:
    """LeRobot resumes a WandB run that "must" exist; one that was never synced would end the training."""
    with contextlib.suppress(ImportError):
        wandb: Any = importlib.import_module("wandb")
        init = wandb.init
        wandb.init = lambda *args, **kwargs: init(*args, **{**kwargs, "resume": "allow"})
