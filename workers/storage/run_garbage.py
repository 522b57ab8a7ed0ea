"""Which files of a run directory are garbage. Checkpoints fill a data disk first: 22 GB each for pi0.

By itself pi0q removes only what a later verified checkpoint of the same job has replaced: `output.old` (the output
before a start from step 0), damaged checkpoints (`.bad`) and unfinished saves; nothing of an active run. A verified
checkpoint is removed only on request; the last one of a job only with --whole.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pi0q.jobs.checkpoint import ADAPTER, MANIFEST, step_of
from pi0q.jobs.state import ENDED, State
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import local_store, pins
from pi0q.workers.host import files
from pi0q.workers.runs import ledger
from pi0q.workers.runs.postrun_tasks import PostrunTasks
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.storage.inventory import IN_USE, Busy, Item


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory on this box."""

    job_id: str
    directory: RunDirectory
    #: The job's name in the box's ledger; None if there is none.
    name: str | None
    #: The state in which it ended, by the ledger; None if it did not, or that is not known.
    ended: State | None
    #: Whether its runner is alive.
    live: bool

    @property
    def unsent(self) -> list[str]:
        """Return the post-run tasks that are not done, as `push to you/it`."""
        return [
            f"push to {task.result['repo']}" if "repo" in task.result else f"{task.kind} sync"
            for task in PostrunTasks(self.directory.path).open()
        ]

    @property
    def verified(self) -> list[tuple[int, Path]]:
        """Return its sealed checkpoints with their steps, in order of step."""
        return list(local_store.sealed_checkpoints(self.directory.checkpoints).items())

    @property
    def garbage(self) -> list[Path]:
        """Return what a later verified checkpoint has replaced."""
        return garbage(self.directory)

    @property
    def removable(self) -> list[Path]:
        """Return all but the last verified checkpoint, saves that may be later than it, and pinned checkpoints."""
        old, kept = self.directory.path / "output.old", pins.read(self.directory.checkpoints)
        replaced = [path for step, path in self.verified[:-1] if step not in kept and not path.is_symlink()]
        known = [*([old] if old.is_dir() else []), *self.garbage, *replaced]
        return list(dict.fromkeys(known)) if self.verified else []


def garbage(directory: RunDirectory, *, at_work: bool = False) -> list[Path]:
    """Return what no run goes on from: `output.old`, damaged checkpoints and unfinished saves, in this order.

    Only what a later verified checkpoint has replaced; nothing where none is verified, since someone may want to
    rescue the rest. For the run `at_work` itself nothing is to be rescued, so its damaged checkpoints always count.
    An unfinished save later than all verified checkpoints may be in the making and never counts.
    """
    newest = max(local_store.sealed_checkpoints(directory.checkpoints), default=None)
    if newest is None and not at_work:
        return []
    old = directory.path / "output.old"
    found = [old] if old.is_dir() and not any(old.glob(f"checkpoints/*/{MANIFEST}")) else []
    if newest is not None and directory.start.is_dir() and not _is_adapter(directory, newest):
        found.append(directory.start)
    for path in sorted(directory.checkpoints.glob("*")):
        step = step_of(path.name.removesuffix(".bad"))
        if step is None or not path.is_dir() or path.is_symlink():
            continue
        replaced, damaged = newest is not None and step < newest, path.name.endswith(".bad")
        if (damaged and (replaced or at_work)) or (replaced and not local_store.is_sealed(path)):
            found.append(path)
    return found


def _is_adapter(directory: RunDirectory, step: int) -> bool:
    """Return whether a checkpoint holds an adapter alone: each resume needs the weights that it started from."""
    return (local_store.sealed_checkpoints(directory.checkpoints)[step] / ADAPTER[0]).is_file()


def runs(settings: Settings) -> Iterator[Run]:
    """Yield every run directory of this box."""
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
    """Yield the garbage of each run as one item."""
    for run in runs(settings):
        if paths := run.garbage:
            yield Item(
                kind="leftovers",
                name=run.job_id,
                path=run.directory.path,
                mib=sum(map(files.size_mib, paths)),
                used=max(path.stat().st_mtime for path in paths),
                kept=IN_USE if run.live else "",
            )


def as_now(item: Item) -> Item:
    """Return the item, marked as in use if its run is active by now."""
    live = RunDirectory(item.path).other_runner(sys.maxsize) is not None
    return replace(item, kept=IN_USE if live else "")


def remove(run: Run, paths: list[Path]) -> int:
    """Remove these files of a run; return the freed MiB. Raises Busy and OSError."""
    if run.directory.other_runner(sys.maxsize) is not None:
        raise Busy(f"run {run.job_id} is still active")
    freed = 0
    for path in paths:
        size = files.size_mib(path)
        local_store.unseal(path)
        shutil.rmtree(path)
        freed += size
    return freed


def remove_garbage(item: Item, settings: Settings) -> int:
    """Remove the garbage of one run; return the freed MiB. Raises Busy and OSError."""
    return sum(remove(run, run.garbage) for run in runs(settings) if run.job_id == item.name)
