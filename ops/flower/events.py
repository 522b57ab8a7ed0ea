"""Translation of records into Celery's events, for Flower. Pure.

Flower only knows the events that it receives. From a record and what was published of the job before, `events`
makes those that are missing, so that a Flower started later shows the same as one that was always there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.queue import celery_message, job_text

#: Stands for the box of a job that ended without one: every event must come from some host.
NO_BOX = "none"
#: States of an owned job whose trainer has not started.
BEFORE_START = frozenset({State.CLAIMED, State.PREPARING})

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was last published of a job."""

    state: State
    #: The claim number.
    epoch: int


def events(job: Record, published: Published | None) -> list[Event]:
    """Return the events that bring Flower from what was published to the record, oldest first."""
    if published is not None:
        return _changes(job, published)
    route = celery_message.QUEUE
    sent = _event(job, "task-sent", job.created_ms, queue=route, exchange="", routing_key=route)
    return [sent, *_changes(job, Published(state=State.QUEUED, epoch=0))]


def _changes(job: Record, published: Published) -> list[Event]:
    if published.state in ENDED:
        return []
    waits = job.state not in OWNED and job.state not in ENDED
    # Each claim raises the claim number, which shows a claim whose own event was missed.
    claimed = job.epoch > published.epoch
    found: list[Event] = []
    if _fell_back(published, waits=waits, claimed=claimed):
        # Only `task-retried` lets a task that was started fall back (celery/events/state.py, Task.event).
        found.append(_event(job, "task-retried", job.updated_ms, exception=_reason(job)))
    if claimed and not waits:
        found.append(_event(job, "task-received", job.created_ms, exception=None))
    if not waits and _started(job) and (claimed or published.state in BEFORE_START):
        found.append(_event(job, "task-started", job.started_ms))
    if job.state in ENDED:
        found.append(_end(job))
    return found


def _fell_back(published: Published, *, waits: bool, claimed: bool) -> bool:
    """Return whether the job was interrupted since: it waits again, or another claim has replaced the published one."""
    if published.state in OWNED:
        return waits or claimed
    return waits and claimed


def _started(job: Record) -> bool:
    return bool(job.started_ms) and job.state not in BEFORE_START


def _end(job: Record) -> Event:
    if job.state is State.SUCCEEDED:
        return _event(job, "task-succeeded", job.ended_ms, runtime=_runtime(job))
    if job.state is State.FAILED:
        traceback = "\n".join([job.fix, *job_text.seen(job)])
        return _event(job, "task-failed", job.ended_ms, exception=_reason(job), traceback=traceback)
    return _event(
        job, "task-revoked", job.ended_ms, exception=_reason(job), terminated=True, signum=None, expired=False
    )


def _event(job: Record, kind: str, at_ms: int | None, **fields: Any) -> Event:
    return {
        "type": kind,
        "uuid": job.id,
        "name": celery_message.TASK,
        "root_id": job.id,
        "parent_id": None,
        "args": job.name,
        "kwargs": f"needs {job_text.wanted(job.needs)}",
        "result": result(job),
        "retries": max(0, job.attempt - 1),
        # By the queue, not by the box: the page is sorted by this time.
        "received": job.created_ms / 1000,
        "hostname": job.submitter if kind == "task-sent" else f"pi0q@{job.box or NO_BOX}",
        "timestamp": (at_ms or job.updated_ms) / 1000,
        # 0: it is no heartbeat of the box.
        "local_received": 0,
        "clock": 0,
        **fields,
    }


def result(job: Record, waits: str = "") -> str:
    """Return one line on the progress of a job or on what it left; `waits`: why one in the queue has not started."""
    saved = job.checkpoint
    parts = [waits, _reason(job) if job.state is not State.SUCCEEDED else ""]
    parts.append(f"step {job_text.progress(job)}" if job.step is not None else "")
    if job.state is State.RUNNING:
        parts += [
            "" if job.loss is None else f"loss {job.loss:.3g}",
            f"{job_text.span(job.eta_seconds)} left" if job.eta_seconds is not None else "",
        ]
    if job.state in OWNED:
        parts.append("cancelling" if job.wish == "cancel" else job.phase)
    elif job.state not in ENDED:
        parts.append(f"needs {job_text.wanted(job.needs)}")
    if saved:
        parts.append(f"saved {saved.path}" if job.state in ENDED else f"saved {saved.step}")
    parts.append(job.wandb_url or ("WandB offline" if job.wandb_dir else ""))
    parts.append(job.swanlab_url or "")
    return " · ".join(part for part in parts if part)


def _reason(job: Record) -> str:
    return f"{job.detail} ({job.reason})".strip() if job.reason else job.detail


def _runtime(job: Record) -> float | None:
    return (job.ended_ms - job.started_ms) / 1000 if job.started_ms and job.ended_ms else None
