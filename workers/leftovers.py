"""Directories of runs: which may go, and what of them. The biggest thing on a data disk: 22 GB a checkpoint of pi0.

By itself pi0q removes only what a later verified checkpoint of the same job has replaced: `output.old` (what lay
there before a start from step 0), checkpoints that did not verify (`.bad`), saves that were never finished; and none
of a job at work. A verified checkpoint goes only when a user says so, the last of a job only when he says just that.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pi0q.jobs.checkpoint import FINISHED, MANIFEST, step_of
from pi0q.jobs.state import ENDED, State
from pi0q.queue.settings import Settings
from pi0q.workers import shelf
from pi0q.workers.run import ledger, pins
from pi0q.workers.run.chores import Chores
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.shelf import IN_USE, Busy, Item


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run left on this box."""

    job_id: str
    directory: RunDirectory
    #: As the box's own ledger has it; None if there is none.
    name: str | None
    #: The state in which it ended, by the ledger; None if it did not, or nobody knows.
    ended: State | None
    #: Whether its runner lives.
    live: bool

    @property
    def unsent(self) -> list[str]:
        """What of it is still to be sent somewhere, as `push to you/it`."""
        return [
            f"push to {chore.result['repo']}" if "repo" in chore.result else f"{chore.kind} sync"
            for chore in Chores(self.directory.path).open()
        ]

    @property
    def verified(self) -> list[tuple[int, Path]]:
        """Its checkpoints with a manifest, by step."""
        return sorted(pair for pair in _checkpoints(self.directory) if (pair[1] / MANIFEST).exists())

    @property
    def useless(self) -> list[Path]:
        """What a later verified checkpoint has replaced; nothing while there is none, since someone may want to
        rescue the rest."""
        if not self.verified:
            return []
        last, old = self.verified[-1][0], self.directory.path / "output.old"
        found = [old] if old.is_dir() and not any(old.glob(f"checkpoints/*/{MANIFEST}")) else []
        for path in sorted(self.directory.checkpoints.glob("*")):
            step = step_of(path.name.removesuffix(".bad"))
            unverified = path.name.endswith(".bad") or not (path / MANIFEST).exists()
            if step is not None and step < last and unverified and path.is_dir() and not path.is_symlink():
                found.append(path)
        return found

    @property
    def older(self) -> list[Path]:
        """All but its last verified checkpoint, what may be later than that, and what its user keeps."""
        old, kept = self.directory.path / "output.old", pins.read(self.directory.checkpoints)
        replaced = [path for step, path in self.verified[:-1] if step not in kept]
        known = [*([old] if old.is_dir() else []), *self.useless, *replaced]
        return list(dict.fromkeys(known)) if self.verified else []


def _checkpoints(directory: RunDirectory) -> Iterator[tuple[int, Path]]:
    for path in directory.checkpoints.glob("*"):
        if (step := step_of(path.name)) is not None and path.is_dir() and not path.is_symlink():
            yield step, path


def runs(settings: Settings) -> Iterator[Run]:
    """Every run directory of this box."""
    for path in sorted(settings.runs.glob("*")):
        if not path.is_dir() or path.is_symlink():
            continue
        directory = RunDirectory(path)
        found = ledger.read(directory.ledger)
        yield Run(
            job_id=path.name,
            directory=directory,
            name=found.fields.get("name") if found else None,
            ended=_ended(found),
            live=directory.other_runner(sys.maxsize) is not None,
        )


def _ended(found: ledger.Ledger | None) -> State | None:
    if found is None or found.ending is None:
        return None
    state = State(found.ending.to)
    return state if state in ENDED else None


def items(settings: Settings) -> Iterator[Item]:
    """What may go of each run without asking."""
    for run in runs(settings):
        if useless := run.useless:
            yield Item(
                kind="leftovers",
                name=run.job_id,
                path=run.directory.path,
                mib=sum(map(shelf.size_mib, useless)),
                used=max(path.stat().st_mtime for path in useless),
                kept=IN_USE if run.live else "",
            )


def as_now(item: Item) -> Item:
    """The same, and whether the run is at work by now."""
    live = RunDirectory(item.path).other_runner(sys.maxsize) is not None
    return replace(item, kept=IN_USE if live else "")


def remove(run: Run, paths: list[Path]) -> int:
    """Removes these of a run's; the MiB that came free. Raises Busy, and OSError."""
    if run.directory.other_runner(sys.maxsize) is not None:
        raise Busy(f"the run {run.job_id} is at work")
    freed = 0
    for path in paths:
        size = shelf.size_mib(path)
        # Without these two a half-removed checkpoint counts as unfinished, never as good.
        for word in (FINISHED, MANIFEST):
            (path / word).unlink(missing_ok=True)
        shutil.rmtree(path)
        freed += size
    return freed


def remove_useless(item: Item, settings: Settings) -> int:
    """Removes the leftovers of one run. Raises Busy, and OSError."""
    return sum(remove(run, run.useless) for run in runs(settings) if run.job_id == item.name)
