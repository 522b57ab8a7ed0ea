"""Early exits of the trainer, and their exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED, NONFINITE, LEASE_OVER, EARLY_STOP = 75, 76, 77, 78
#: of a rank that has nothing more to do since another one ended; never the reason of the run
PEER_GONE = 79
#: how long WandB may take to finish its run before an early exit, and behind the last step, seconds
WANDB_S, WANDB_END_S = 20.0, 60.0
#: beside an online run's files: WandB may not have all of it (workers/runs/wandb_runs.py)
LEFT = "pi0q.left"
#: end what must not be cut off, with the exit code (trackers.py); they have `WANDB_S` together
at_leave: list[Callable[[int], None]] = []


def leave(code: int, *, wandb_s: float | None = None) -> NoReturn:
    """Exit now: WandB gets some seconds to finish its run; threads, workers and atexit do not."""
    for end_run in at_leave:
        own = threading.Thread(target=end_run, args=(code,), daemon=True)
        own.start()
        own.join(WANDB_S / len(at_leave))
    wandb: Any = sys.modules.get("wandb")
    run = getattr(wandb, "run", None)
    if run is not None:
        end = threading.Thread(target=wandb.finish, kwargs={"exit_code": code}, daemon=True)
        end.start()
        end.join(WANDB_S if wandb_s is None else wandb_s)
        if end.is_alive():
            with contextlib.suppress(Exception):
                (Path(run.dir).parent / LEFT).touch()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
