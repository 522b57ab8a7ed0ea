"""Check that this box sees the directory of a job's copies, and never wait for a shared disk that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pi0q.jobs import replicas
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.replica_directory import unusable
from pi0q.workers.runs.run_directory import RunDirectory

#: Seconds that a directory has to answer: claims wait for it.
PATIENCE_SECONDS = 2.0


@dataclass
class CopyTargets:
    """The directories of copies (`checkpoints.copy_to`) that this box was asked about."""

    runs: Path
    #: The directories that the box's owner allows for copies.
    roots: tuple[Path, ...] = ()
    #: Checks that have not come back, by directory: another one would hang too.
    _hanging: dict[Path, threading.Thread] = field(default_factory=dict)

    def problems(self, job: Record, spec: Spec) -> list[str]:
        """Return why the job may not be claimed here: it would not find its copy, or could make none."""
        target = replicas.place_of(spec)
        if not target or replicas.repository(target):
            return []
        why = self.ask(Path(target), lambda: _problem(job, Path(target), self.roots))
        return [f"copies: {why}"] if why and not self._has_newest(job) else []

    def _has_newest(self, job: Record) -> bool:
        """Return whether a checkpoint lies here that is as new as every one that is known of the job."""
        known = max((saved.step for saved in (job.checkpoint, job.copied) if saved), default=None)
        if known is None:
            return False
        sealed = local_store.sealed_checkpoints(RunDirectory(self.runs / job.id).checkpoints)
        return max(sealed, default=-1) >= known

    def ask(self, target: Path, check: Callable[[], str]) -> str:
        """Run the check in a thread and return its answer; a disk that hangs keeps the thread, not the caller."""
        hanging, answers = self._hanging.get(target), list[str]()
        if hanging is None or not hanging.is_alive():
            self._hanging.pop(target, None)
            thread = threading.Thread(target=lambda: answers.append(check()), name="copy-target", daemon=True)
            thread.start()
            thread.join(PATIENCE_SECONDS)
            if not answers:
                self._hanging[target] = thread
        return answers[0] if answers else f"{target} does not answer: is the shared disk up?"


def _problem(job: Record, target: Path, roots: tuple[Path, ...]) -> str:
    try:
        if why := unusable(target, roots, make=False):
            return why
        copied = job.copied if job.copied and replicas.place_in(job.copied) == str(target) else None
        folder = target / replicas.job_in(copied) if copied else target
        if copied and not folder.is_dir():
            return (
                f"its newest one, step {copied.step}, lies in {target}, and this box sees none of the job there: is it "
                f"the same disk? If they were removed for good: mkdir {folder}"
            )
    except OSError as error:
        return f"{target} can't be looked at: {error.strerror}"
    return ""
