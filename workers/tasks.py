"""The one Celery task: attend a job that the box has claimed."""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import Celery
from celery.exceptions import Ignore

from pi0q.jobs.state import State
from pi0q.queue.message import TASK
from pi0q.queue.store import NotOwner
from pi0q.workers.box import Box, Stopping

logger = logging.getLogger("pi0q")


class JobFailed(Exception):
    """What Celery and Flower show of a job that failed."""


def register(app: Celery, box: Box) -> None:
    """Registers `pi0q.train`; its id is the job's."""

    @app.task(bind=True, name=TASK, throws=(JobFailed,))  # type: ignore[untyped-decorator]
    def train(self: Any) -> dict[str, Any]:
        try:
            record = box.attend(self.request.id)
        except Stopping:
            raise Ignore from None
        except (redis.RedisError, NotOwner) as error:
            # The box looks after it again once the queue is back.
            logger.warning("can't see %s through just now: %s", self.request.id, error)
            raise Ignore from None
        if record is None:
            raise Ignore
        if record.state is State.SUCCEEDED:
            saved = record.checkpoint
            return {
                "step": record.step,
                "checkpoint": saved and saved.path,
                "wandb": record.wandb_url or record.wandb_dir,
                **({"push": f"{record.push.get('repo')}: {record.push.get('state')}"} if record.push else {}),
            }
        if record.state is State.FAILED:
            raise JobFailed(f"{record.reason}: {record.detail}")
        if record.state is State.CANCELLED:
            self.send_event("task-revoked", terminated=True, signum="SIGTERM", expired=False)
        # Interrupted: it is in the queue again under the same id.
        raise Ignore
