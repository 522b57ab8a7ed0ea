"""One job's own page as values: history, checkpoints, curve and the end of its log."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pi0q.jobs.curve import Point
from pi0q.jobs.printable import printable
from pi0q.jobs.record import Event, Record
from pi0q.jobs.state import State
from pi0q.queue import place_lookup, stored_curves, wait_notes
from pi0q.queue.reading.values import CheckpointView, JobView
from pi0q.queue.reading.views import card_uuids, job_view, newest_checkpoint
from pi0q.queue.store_reads import StoreReads


@dataclass(frozen=True, kw_only=True)
class JobDetails:
    """Everything that a job's page shows."""

    #: When it was read: milliseconds since 1970 on the server's clock.
    now_ms: int
    job: JobView
    #: Oldest first.
    history: tuple[Event, ...]
    #: All verified checkpoints on its box or in its copies, newest first.
    checkpoints: tuple[CheckpointView, ...]
    #: By step, jobs/curve.MOST_POINTS at the most.
    curve: tuple[Point, ...]
    #: The last bytes of the trainer's log, printable, and bytes of the whole log.
    log: str
    log_bytes: int
    #: Where the whole log and the checkpoints lie on its box; "" before it ran.
    run_dir: str


def read(store: StoreReads, job_id: str, silent_seconds: float) -> JobDetails:
    """Return one job as it is now. Raises NotFound, BadRecord and the client's error.

    `silent_seconds`: as in `box_status.is_up`.
    """
    record = store.get(job_id)
    announced = store.boxes(about=job_id if record.state is State.QUEUED else "")
    line = place_lookup.place_of(store, record, announced, silent_seconds)
    place = len(line.ahead) if line else None
    wait = wait_notes.waits([record], {} if place is None else {job_id: place}, announced, silent_seconds).get(job_id)
    if wait and line:
        wait = replace(wait, start_seconds=line.start_seconds)
    text, total = store.tail(job_id)
    uuids = next((card_uuids(box) for box in announced if box["name"] == record.box), ())
    return JobDetails(
        now_ms=store.now_ms(),
        job=job_view(record, place=place, wait=wait, uuids=uuids),
        history=record.history,
        checkpoints=checkpoints(record),
        curve=stored_curves.read(store, job_id),
        log=printable(text),
        log_bytes=total,
        run_dir=record.run_dir or "",
    )


def checkpoints(record: Record) -> tuple[CheckpointView, ...]:
    """Return the job's verified checkpoints, newest first."""
    newest = newest_checkpoint(record)
    copied = {int(step) for step in record.manifests} | ({record.copied.step} if record.copied else set())
    found = [
        CheckpointView(step=step, pinned=step in record.protected_steps, copied=step in copied)
        for step in record.known_checkpoints
        if newest is None or step != newest.step
    ]
    if newest is not None:
        found.append(replace(newest, copied=newest.step in copied))
    return tuple(sorted(found, key=lambda one: -one.step))
