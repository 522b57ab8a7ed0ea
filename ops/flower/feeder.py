"""Feeder: reads the records and publishes each change to Flower as Celery's events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from redis import RedisError

from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, State
from pi0q.ops.flower.events import Published, events, result
from pi0q.queue import place_lookup, wait_notes
from pi0q.queue.store import Store, heard

if TYPE_CHECKING:
    from flower.app import Flower

#: Newest ended jobs that Flower shows.
HISTORY = 3000
#: Jobs published in one go, so that Flower's pages stay quick meanwhile.
BATCH = 100
#: Seconds between two reads of all that changed, in case a change was missed.
REFRESH_SECONDS = 60.0
#: Seconds between two looks at why jobs wait, and of how many of those that are next.
WAITS_SECONDS, WAITS_SHOWN = 10.0, 100
#: Seconds within which several changes of a job become one.
GATHER_SECONDS = 0.3
RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Feeder(threading.Thread):
    """Thread that reads the records; only Flower's own thread touches Flower's state."""

    def __init__(self, store: Store, web: Flower, *, silent_seconds: float = 60.0) -> None:
        """`silent_seconds`: as in `box_status.is_up`."""
        super().__init__(name="pi0q-feeder", daemon=True)
        self.store = store
        self.web = web
        self._silent_seconds = silent_seconds
        #: Why each queued job waits, as told last; a new value each time, since Flower's thread reads it.
        self._waits: dict[str, str] = {}
        self.published: dict[str, Published] = {}
        #: `Store.stamps` of the last refresh.
        self._stamps: dict[str, str] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        """Follow the records until `stopping`; retry while the server is unreachable."""
        while not self.stopping.is_set():
            try:
                self._follow()
            except RedisError as error:
                log.warning("Can't read the queue (%s). Retrying in %.0f s.", error, RETRY_SECONDS)
                self.stopping.wait(RETRY_SECONDS)
            except Exception:
                # Without this thread Flower would show the same for ever.
                log.exception("Can't show the jobs. Retrying in %.0f s.", RETRY_SECONDS)
                self.stopping.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        pubsub = self.store.subscribe("changes")
        with pubsub:
            while not self.stopping.is_set():
                # Subscribed before this read, so no change falls between the two.
                self._publish_soon(self._changed())
                self._publish_soon(self._waiting())
                now = time.monotonic()
                refresh_at, look_at = now + REFRESH_SECONDS, now + WAITS_SECONDS
                while not self.stopping.is_set() and time.monotonic() < refresh_at:
                    changed = set(heard(pubsub, 2.0))
                    if changed:
                        self.stopping.wait(GATHER_SECONDS)
                        changed.update(heard(pubsub, 0.0))
                        self._publish_soon(self._records(changed))
                    if changed and time.monotonic() >= look_at:
                        self._publish_soon(self._waiting())
                        look_at = time.monotonic() + WAITS_SECONDS

    def _changed(self) -> list[Record]:
        """Return the jobs that changed since the last refresh, or that Flower does not have any more."""
        stamps, there = self.store.stamps(ended=HISTORY), self.web.events.state.tasks
        changed = [
            job_id for job_id, stamp in stamps.items() if self._stamps.get(job_id) != stamp or job_id not in there
        ]
        self._stamps = stamps
        return self.store.listed(changed)

    def _waiting(self) -> list[Record]:
        """Return the jobs next in the queue of which another reason to wait is told than the last time."""
        page = self.store.page(live=WAITS_SHOWN, ended=0, whole=False)
        page, boxes = place_lookup.in_turn(self.store, page, self._silent_seconds)
        before, self._waits = self._waits, wait_notes.notes(page, boxes, self._silent_seconds)
        return [job for job in page.jobs if job.id in self._waits and self._waits[job.id] != before.get(job.id)]

    def _records(self, ids: Iterable[str]) -> list[Record]:
        records = []
        for job_id in ids:
            if ":" in job_id:
                continue
            try:
                records.append(self.store.get(job_id))
            except (NotFound, BadRecord):
                # It was pruned, or is damaged: the store's log names those.
                continue
        return records

    def _publish_soon(self, jobs: Sequence[Record]) -> None:
        for at in range(0, len(jobs), BATCH):
            self.web.io_loop.add_callback(self.publish, jobs[at : at + BATCH])

    def publish(self, jobs: Sequence[Record]) -> None:
        """Bring Flower's state up to the records. Runs in Flower's thread."""
        for job in jobs:
            try:
                self._publish_one(job)
            except Exception:
                # One job that cannot be shown must not hide the others.
                log.exception("Can't show job %s.", job.id)

    def _publish_one(self, job: Record) -> None:
        state = self.web.events.state
        published = self.published.get(job.id) if job.id in state.tasks else None
        if published and published.state in ENDED:
            return
        for event in events(job, published):
            state.event(event)
        # Progress is no event: thousands of `task-started` would spoil the metrics.
        task = state.tasks[job.id]
        task.result = result(job, self._waits.get(job.id, "") if job.state is State.QUEUED else "")
        if not job.box:
            task.worker = None
        state.search_engine.upsert(task)
        self.published[job.id] = Published(state=job.state, epoch=job.epoch)
