"""The trainer's early ends and their exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any, NoReturn

INTERRUPTED, NONFINITE, LEASE_OVER = 75, 76, 77
#: how long WandB may take to finish its run before an early exit, seconds
WANDB_S = 20.0


def leave(code: int) -> NoReturn:
    """Exit now: WandB gets WANDB_S to finish its run; threads, workers and atexit are not waited for."""
    wandb: Any = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        end = threading.Thread(target=wandb.finish, kwargs={"exit_code": code}, daemon=True)
        end.start()
        end.join(WANDB_S)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
