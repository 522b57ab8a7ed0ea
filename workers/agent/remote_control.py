"""Answer Celery's remote control: Flower's buttons and `celery inspect`.

Celery's own `revoke` would put a job's id among those that the worker discards for hours, and leave the job's
record as it is: queued or running for ever. Here it is a cancel of the job, by its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from celery.worker.control import Panel

from pi0q.jobs.errors import NotFound
from pi0q.queue import celery_message
from pi0q.queue.store import Store

#: Commands that only tell, or that Celery's workers need among themselves; all others are refused.
ALLOWED = frozenset({
    "active", "active_queues", "clock", "conf", "disable_events", "election", "enable_events", "heartbeat", "hello",
    "ping", "query_task", "registered", "report", "reserved", "revoked", "scheduled", "stats",
})  # fmt: skip
#: What to do instead of some refused commands.
INSTEAD = {
    "shutdown": "only its box stops a worker: `pi0q box stop`, or Ctrl-C in its terminal",
    "add_consumer": "a box takes its jobs by itself, after it has measured what it has free",
    "cancel_consumer": "a box always listens to its own queue; stop its worker to keep it from new jobs",
    "autoscale": "the number of jobs at a time is set by `pi0q worker --slots`",
    "pool_grow": "the number of jobs at a time is set by `pi0q worker --slots`",
    "pool_shrink": "the number of jobs at a time is set by `pi0q worker --slots`",
    "pool_restart": "restart the worker itself; its trainings go on meanwhile",
    "rate_limit": "trainings are not limited by rate",
    "time_limit": "trainings take as long as they take; `pi0q cancel` ends one",
    "revoke_by_stamped_headers": "jobs have no stamps; `pi0q cancel` ends one",
}

Answer = dict[str, str]


def install(store: Store) -> None:
    """Replace Celery's answers by pi0q's, in this process."""

    def revoke(state: Any, task_id: str | Iterable[str], **_: Any) -> Answer:
        """Cancel jobs for good, waiting or running."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        return {"ok": "; ".join(_cancel(store, job_id) for job_id in ids)}

    def terminate(state: Any, signal: str, task_id: str | Iterable[str], **_: Any) -> Answer:
        """Cancel jobs for good, waiting or running."""
        return revoke(state, task_id)

    own_queues = Panel.data["active_queues"]
    # Installed twice, the second would wrap the first.
    own_queues = getattr(own_queues, "__wrapped__", own_queues)

    def active_queues(state: Any, **_: Any) -> list[dict[str, Any]]:
        """The box's own queue, and the shared one that boxes claim from without consuming it."""
        own = own_queues(state)
        return [
            *own,
            *({**queue, "name": celery_message.QUEUE, "routing_key": celery_message.QUEUE} for queue in own[:1]),
        ]

    active_queues.__wrapped__ = own_queues  # type: ignore[attr-defined]
    Panel.data |= {"revoke": revoke, "terminate": terminate, "active_queues": active_queues}
    answered = {*ALLOWED, "revoke", "terminate"}
    for name in {*Panel.data, *INSTEAD} - answered:
        Panel.data[name] = _refusal(INSTEAD.get(name, "pi0q has no use for it"))


def _cancel(store: Store, job_id: str) -> str:
    try:
        return f"{job_id} is {store.cancel(job_id, text='cancelled in Flower')}"
    except NotFound as error:
        return str(error)


def _refusal(why: str) -> Callable[..., Answer]:
    def refuse(state: Any, **_: Any) -> Answer:
        """Refused by pi0q."""
        return {"error": f"Refused: {why}. Nothing was changed."}

    return refuse
