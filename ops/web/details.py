"""Reads for the page what the fleet's view does not hold: one job whole, its log, its curves. Once for all browsers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import redis

from pi0q.jobs.printable import printable
from pi0q.ops.web.job_screen import JobDetail
from pi0q.queue import stored_curves
from pi0q.queue.reading import views
from pi0q.queue.reading.watcher import FleetState
from pi0q.queue.store import Store

#: Jobs that are kept as they were read last.
MOST_KEPT = 50
#: Running jobs whose loss is drawn small on the fleet page, and points of each.
SPARKS, SPARK_POINTS = 30, 40


class Details:
    """Reads jobs, each once for a version of the fleet. Safe to use from several threads."""

    #: What a read may raise while the server can't be reached or refuses.
    errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: dict[str, tuple[int, JobDetail]] = {}
        self._losses: Mapping[str, Sequence[float | None]] = {}
        self._losses_of = -1
        self._lock = threading.Lock()

    def read(self, job_id: str, state: FleetState) -> JobDetail:
        """Return one job as of this version of the fleet. Raises NotFound, BadRecord, `errors`."""
        with self._lock:
            version, kept = self._kept.get(job_id, (-1, None))
        if kept is not None and version == state.version:
            return kept
        record = self.store.get(job_id)
        text, _ = self.store.tail(job_id)
        known = state.view.job(job_id) if state.view else None
        detail = JobDetail(
            view=known or views.job_view(record),
            record=record,
            log=printable(text.replace("\r", "\n")),
            points=stored_curves.read(self.store, job_id),
        )
        with self._lock:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[job_id] = (state.version, detail)
        return detail

    def losses(self, state: FleetState) -> Mapping[str, Sequence[float | None]]:
        """Return some losses of each running job that the fleet page shows, by id."""
        with self._lock:
            if self._losses_of == state.version:
                return self._losses
        running = [job.id for job in state.view.running[:SPARKS]] if state.view else []
        found = stored_curves.losses(self.store, running, SPARK_POINTS)
        with self._lock:
            self._losses_of, self._losses = state.version, found
        return found
