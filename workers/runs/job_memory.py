"""Jobs that this box has run, and jobs that have ended, on its disk: a record that comes back is no new job.

    PI0Q_HOME/known_jobs     a line each: `claimed ID MS` or `ended ID MS`, the newest last

Only a box that demands signatures keeps it. The agent and the runners add lines under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.signing.job_signature import Seen
from pi0q.workers.host import files

FILE = "known_jobs"
#: Jobs that are remembered, the newest: 40 bytes each. A signature counts for 30 days, in which no box ends as many.
MOST_JOBS = 50_000
CLAIMED, ENDED = "claimed", "ended"


class JobMemory:
    """What one box remembers of jobs; it reads the file again when it has changed."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._seen: dict[str, Seen] = {}
        self._version: tuple[int, int, int] | None = None

    def seen(self, job: str) -> Seen:
        """Return what is remembered of a job. Raises OSError where the file can't be read: then nothing is known."""
        self._refresh()
        return self._seen.get(job, Seen())

    def note_claimed(self, job: str) -> None:
        """Remember that this box runs the job. Raises OSError."""
        if not self.seen(job).claimed:
            self._add([f"{CLAIMED} {job} {_now_ms()}"])

    def note_ended(self, jobs: Iterable[str], *, at_ms: int = 0) -> None:
        """Remember that jobs have ended, now or at `at_ms` if that is later. Raises OSError."""
        when = max(_now_ms(), at_ms)
        self._refresh()
        known = {job for job, seen in self._seen.items() if seen.ended_ms is not None}
        self._add([f"{ENDED} {job} {when}" for job in jobs if is_job_id(job) and job not in known])

    def _add(self, lines: list[str]) -> None:
        if not lines:
            return
        files.make_private(self.path.parent)
        with self._locked():
            if self.path.exists() and self.path.stat().st_size > 2 * MOST_JOBS * 40:
                kept = self.path.read_text(encoding="ascii", errors="replace").splitlines()[-MOST_JOBS:]
                files.write_atomic(self.path, "".join(f"{line}\n" for line in kept), mode=0o600)
            with self.path.open("a", encoding="ascii") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_name(f".{FILE}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _refresh(self) -> None:
        try:
            info = self.path.stat()
        except FileNotFoundError:
            self._seen, self._version = {}, None
            return
        version = (info.st_ino, info.st_size, info.st_mtime_ns)
        if version == self._version:
            return
        seen = dict[str, Seen]()
        for line in self.path.read_text(encoding="ascii", errors="replace").splitlines():
            kind, job, at = (*line.split(), "", "", "")[:3]
            if not is_job_id(job) or not at.isdecimal() or kind not in (CLAIMED, ENDED):
                # A line that a full disk cut short.
                continue
            before = seen.get(job, Seen())
            ended = before.ended_ms if kind == CLAIMED else max(int(at), before.ended_ms or 0)
            seen[job] = Seen(claimed=before.claimed or kind == CLAIMED, ended_ms=ended)
        self._seen, self._version = seen, version


def _now_ms() -> int:
    return int(time.time() * 1000)
