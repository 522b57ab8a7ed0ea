"""The one Celery task: watch the run of a job that the box has claimed."""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import Celery
from celery.exceptions import Ignore

from pi0q.jobs.state import State
from pi0q.queue.celery_message import TASK
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.run_watcher import Stopping

logger = logging.getLogger(__name__)


class JobFailed(Exception):
    """The failure of a job, as Celery and Flower show it."""


def register(app: Celery, box: Box) -> None:
    """Register `pi0q.train`; a task's id is the job's id."""

    @app.task(bind=True, name=TASK, throws=(JobFailed,))  # type: ignore[untyped-decorator]
    def train(self: Any) -> dict[str, Any]:
        try:
            record = box.runs.attend(self.request.id)
        except Stopping:
            raise Ignore from None
        except (redis.RedisError, OwnershipLost) as error:
            # Reconciliation attends the job again once the server is back.
            logger.warning("can't watch the run of %s for now: %s", self.request.id, error)
            raise Ignore from None
        if record is None:
            raise Ignore
        if record.state is State.SUCCEEDED:
            saved = record.checkpoint
            return {
                "step": record.step,
                "checkpoint": saved and saved.path,
                "wandb": record.wandb_url or record.wandb_dir,
                **({"swanlab": record.swanlab_url} if record.swanlab_url else {}),
                **({"push": f"{record.push.get('repo')}: {record.push.get('state')}"} if record.push else {}),
            }
        if record.state is State.FAILED:
            raise JobFailed(f"{record.reason}: {record.detail}")
        if record.state is State.CANCELLED:
            self.send_event("task-revoked", terminated=True, signum="SIGTERM", expired=False)
        # Interrupted: it is in the queue again under the same id.
        raise Ignore
