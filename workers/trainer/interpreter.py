"""Find the Python that has LeRobot: the user's choice, else conda's env `lerobot`, else the worker's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi0q.queue.settings import Settings

#: Usual places of conda; AutoDL's images have the first, under /root.
CONDA_BASES = ("~/miniconda3", "~/anaconda3", "~/miniforge3", "/root/miniconda3", "/opt/conda")
#: Seconds for a cold start of an interpreter on a slow disk.
PROBE_TIMEOUT = 60
PROBE = "import importlib.metadata, sys; print(importlib.metadata.version('lerobot'), sys.executable)"


@dataclass(frozen=True, kw_only=True)
class TrainerPython:
    """An interpreter that has LeRobot."""

    python: str
    #: LeRobot's version, as 0.6.1.
    lerobot: str


@dataclass(frozen=True, kw_only=True)
class NoTrainer:
    """No interpreter was found; `why` includes the fix."""

    why: str


def find(settings: Settings, env: Mapping[str, str] = os.environ) -> TrainerPython | NoTrainer:
    """Return the interpreter that this box trains with; a chosen one that has no LeRobot is an error."""
    if settings.trainer_python:
        found = probe(settings.trainer_python)
        return found or NoTrainer(
            why=f"PI0Q_TRAINER_PYTHON={settings.trainer_python} has no LeRobot: point it at a Python where "
            "`python -c 'import lerobot'` works"
        )
    for python in candidates(env):
        if found := probe(python):
            return found
    return NoTrainer(
        why="no LeRobot found: make a conda env `lerobot`, `pip install 'pi0q[train]'`, or set PI0Q_TRAINER_PYTHON"
    )


def candidates(env: Mapping[str, str]) -> Iterator[str]:
    """Yield the interpreters to try, in this order."""
    bases = [Path(base).expanduser() for base in CONDA_BASES]
    if env.get("CONDA_EXE"):
        bases.insert(0, Path(env["CONDA_EXE"]).parent.parent)
    for base in dict.fromkeys(bases):
        if _there(python := base / "envs" / "lerobot" / "bin" / "python"):
            yield str(python)
    yield sys.executable
    for base in dict.fromkeys(bases):
        if _there(python := base / "bin" / "python"):
            yield str(python)


def _there(path: Path) -> bool:
    """Return whether a path exists; Path.exists raises below directories that this user may not read."""
    return os.path.exists(path)  # noqa: PTH110


def probe(python: str) -> TrainerPython | None:
    """Return an interpreter with its LeRobot's version, without importing it (20 s); None if it has none."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version, _, executable = done.stdout.strip().partition(" ")
    return TrainerPython(python=executable or python, lerobot=version)
