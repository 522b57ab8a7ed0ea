"""Check that this box can get the checkpoint of another job that a job starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from pi0q.jobs import command, replicas
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import StartPoint
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.checkpoints import local_store, start_sources
from pi0q.workers.checkpoints.start_sources import Copies
from pi0q.workers.claims.copy_target import CopyTargets
from pi0q.workers.runs.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class StartCheck:
    """Looks for starts on this box's disk, and among the copies and pushes that records name."""

    settings: Settings
    store: Store
    copy_targets: CopyTargets
    #: Whether this box demands signatures.
    signed_only: Callable[[], bool] = lambda: False

    def problems(self, job: Record, spec: Spec, lerobot: str) -> list[str]:
        """Return why the job can't start here, at most one line; LeRobot of the box is of that version."""
        start = job.starts_from
        if start is None or (job.checkpoint and not policy_sizes.adapted_base(spec)):
            return []
        if why := command.misfit(start.lerobot, lerobot, what=str(start.reference)):
            return [why]
        if self.has(job, start):
            return []
        try:
            sources = start_sources.records(self.store, start)
        except redis.RedisError:
            return []
        copies = start_sources.copies(start, sources)
        # Which commit was pushed is only another box's word, which counts where nobody need sign.
        pushed = None if self.signed_only() else next(start_sources.pushed(start, sources), None)
        if any(self._sees(one, start) for one in copies) or pushed:
            return []
        return [f"weights: {start.reference}, from which it starts, is not here{_elsewhere(sources, copies)}"]

    def has(self, job: Record, start: StartPoint) -> bool:
        """Return whether the checkpoint, or what an earlier run took of it, lies on this box's disk."""
        own = RunDirectory(self.settings.runs / job.id).start
        taken = local_store.manifests(own).get(str(start.step)) == start.manifest
        return taken or start_sources.on_disk(self.settings.runs, start) is not None

    def _sees(self, copies: Copies, start: StartPoint) -> bool:
        """Return whether a copy can be had: of a repository only the run itself learns whether it may read it."""
        if replicas.repository(copies.place):
            return True
        why = self.copy_targets.ask(Path(copies.place), lambda: "" if _lies_there(copies, start) else "none")
        return not why


def _lies_there(copies: Copies, start: StartPoint) -> bool:
    try:
        return copies.on_disk(start)
    except OSError:
        return False


def _elsewhere(sources: Sequence[Record], copies: Sequence[Copies]) -> str:
    """Return where the checkpoint is, for a sentence, and what would bring it here."""
    boxes = list(dict.fromkeys(source.box for source in reversed(sources) if source.box))
    has = f"; {boxes[0]} has it" if boxes else "; the job that made it is gone"
    if copies:
        return f"{has}, and its copies are in {copies[0].place}, which this box does not see"
    return f"{has}, and there is no copy of it (checkpoints.copy_to)"
