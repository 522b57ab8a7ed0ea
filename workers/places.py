"""Whether this box sees the directory that a job's copies are in, without ever waiting for a shared disk that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pi0q.jobs import copies
from pi0q.jobs.checkpoint import MANIFEST, step_of
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.workers.run.copy_directory import unusable
from pi0q.workers.run.directory import RunDirectory

#: Seconds that a directory has to answer: claims wait for it.
PATIENCE_SECONDS = 2.0


@dataclass
class Places:
    """Of one box."""

    runs: Path
    #: Looks that have not come back: the next one would not either.
    _hanging: dict[Path, threading.Thread] = field(default_factory=dict)

    def problems(self, job: Record, spec: Spec) -> list[str]:
        """Why the job may not be claimed here: its copy would be lost to it, or none could be made."""
        place = copies.place_of(spec)
        if not place or copies.repository(place):
            return []
        why = self._answer(Path(place), lambda: _lack(job, Path(place)))
        return [f"copies: {why}"] if why and not self._has_it_all(job) else []

    def _has_it_all(self, job: Record) -> bool:
        """Whether a checkpoint lies here that is as new as all that is known of the job."""
        known = max((saved.step for saved in (job.checkpoint, job.copied) if saved), default=None)
        if known is None:
            return False
        found = RunDirectory(self.runs / job.id).checkpoints.glob(f"*/{MANIFEST}")
        return any((step := step_of(path.parent.name)) is not None and step >= known for path in found)

    def _answer(self, place: Path, look: Callable[[], str]) -> str:
        before, answers = self._hanging.get(place), list[str]()
        if before is None or not before.is_alive():
            self._hanging.pop(place, None)
            thread = threading.Thread(target=lambda: answers.append(look()), name="places", daemon=True)
            thread.start()
            thread.join(PATIENCE_SECONDS)
            if not answers:
                self._hanging[place] = thread
        return answers[0] if answers else f"{place} does not answer: is the shared disk up?"


def _lack(job: Record, place: Path) -> str:
    try:
        if why := unusable(place, make=False):
            return why
        copied = job.copied if job.copied and copies.place_in(job.copied) == str(place) else None
        folder = place / copies.job_in(copied) if copied else place
        if copied and not folder.is_dir():
            return (
                f"its newest one, step {copied.step}, lies in {place}, and this box sees none of the job there: is it "
                f"the same disk? If they were removed for good: mkdir {folder}"
            )
    except OSError as error:
        return f"{place} can't be looked at: {error.strerror}"
    return ""
