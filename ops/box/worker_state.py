"""Whether the worker of this machine runs, and who starts it again: one answer for all commands that tell it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from pi0q.ops.box import autostart, control
from pi0q.ops.machine import Machine


class WorkerState(str, Enum):
    """How the worker of a machine is; the values are what a person reads."""

    SUPERVISED = "runs, and is restarted if it ends"
    #: In a terminal, or by `pi0q up`.
    BY_HAND = "runs, started by hand"
    STARTING = "is starting"
    STOPPED = "does not run"


def worker_state(machine: Machine, home: Path) -> WorkerState:
    """Return how the worker of this home is."""
    if not control.worker_locked(home):
        return WorkerState.STARTING if control.worker(home) else WorkerState.STOPPED
    supervised = control.supervisor(home) is not None or autostart.runs_as_unit(machine, home)
    return WorkerState.SUPERVISED if supervised else WorkerState.BY_HAND
