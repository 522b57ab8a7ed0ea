"""WandB runs as they lie in a run's directory: which of them WandB does not have yet."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pi0q.workers.runs.run_directory import RunDirectory

# The payload pi0q_trainer runs without pi0q and has its own copies of these three; a test holds them equal.
#: Mark beside an online run's files: the trainer ended before WandB had all of them.
LEFT = "pi0q.left"
#: What WandB says of a run id whose run a user deleted.
DELETED = "previously created and deleted"

_RUN = re.compile(r"(offline-)?run-(\d{8}_\d{6})-(.+)")


def all_runs(directory: RunDirectory) -> Iterator[Path]:
    """Directories of WandB runs, oldest first."""
    places = [directory.wandb, directory.path / "output.old" / "wandb", directory.output / "wandb"]
    found = [
        (match[2], path) for place in places for path in place.glob("*run-*") if (match := _RUN.fullmatch(path.name))
    ]
    for _, path in sorted(found):
        if not path.is_symlink() and any(path.glob("run-*.wandb")):
            yield path


def kept(directory: RunDirectory) -> Iterator[Path]:
    """Those that WandB may not have."""
    return (path for path in all_runs(directory) if path.name.startswith("offline-") or (path / LEFT).exists())


def unsynced(directory: RunDirectory, *, over: bool = False, ended: int | None = None) -> list[Path]:
    """Those that are to be synced yet; none that a trainer may still be writing.

    `over`: no trainer lives. `ended`: the epoch of a runner that lives but is through with its trainer.
    """
    through = ended is not None and directory.live_runner(ended) is not None
    live = not over and not through and directory.other_runner(sys.maxsize) is not None
    begun = directory.pidfile.stat().st_mtime if live else None
    return [path for path in kept(directory) if not synced(path) and (begun is None or _written(path) < begun)]


def synced(path: Path) -> bool:
    """Whether WandB has all of this run directory, by the mark that `wandb sync` leaves."""
    return any(path.glob("run-*.wandb.synced"))


def unmark(path: Path) -> None:
    """Takes that mark away: WandB does not have it."""
    for mark in path.glob("run-*.wandb.synced"):
        mark.unlink()


def run_id(path: Path) -> str:
    """The id of the WandB run in a directory."""
    match = _RUN.fullmatch(path.name)
    return match[3] if match else ""


def megabytes(paths: list[Path]) -> float:
    """What they hold, MB."""
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file()) / 1e6


def following(run_id: str) -> str:
    """Return the id of the WandB run after this one: `pi0q-a1`, `pi0q-a1.2`, `pi0q-a1.3`."""
    match = re.fullmatch(r"(.+)\.(\d+)", run_id)
    return f"{match[1]}.{int(match[2]) + 1}" if match else f"{run_id}.2"


def _written(path: Path) -> float:
    return max((file.stat().st_mtime for file in path.glob("run-*.wandb")), default=0.0)
