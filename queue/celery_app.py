"""The Celery app: each broker setting with its why. Measurements are of Celery 5.7 on Redis 7 and Valkey 9."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue  # type: ignore[attr-defined]

from pi0q.queue import celery_message, tls
from pi0q.queue.connection import health_check_seconds
from pi0q.queue.settings import Settings

#: Seconds. Far beyond any run: the lease, not the broker, says when a job is lost.
VISIBILITY_TIMEOUT = 14 * 86400


def make(settings: Settings, *, box: str | None = None) -> Celery:
    """The app of a box's worker, which consumes only the box's own queue, or of Flower, which consumes none."""
    own = celery_message.box_key(box) if box else None
    app = Celery("pi0q", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        broker_transport="pi0q.queue.celery_transport:Transport" if own else None,
        # JSON only, and only tasks that we registered: a message can't bring code.
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        # The record holds the result.
        task_ignore_result=True,
        # With late acks one TCP reset requeues a running task at once, whatever the visibility timeout.
        task_acks_late=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Unlimited: the box's own queue holds claims only, no more than its slots. A consumer that pauses while
        # its slots are full looks again up to 1 s after one is free.
        worker_prefetch_multiplier=0,
        worker_disable_prefetch=False,
        # A server that is away for a night must not end a box.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Nothing but claim.lua puts messages into queues.
        task_default_queue=celery_message.QUEUE,
        task_create_missing_queues=box is None,
        task_queues=[Queue(own, routing_key=own)] if own else None,  # type: ignore[no-untyped-call]
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        broker_transport_options=_transport_options(settings),
        # The certificate of the server is always checked.
        broker_use_ssl=tls.for_celery(settings),
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    return {
        "global_keyprefix": settings.prefix,
        "priority_steps": sorted(celery_message.STEPS.values()),
        "queue_order_strategy": "priority",
        "visibility_timeout": VISIBILITY_TIMEOUT,
        # Without these a dead NAT mapping hangs the worker for ever; with them it is back in 20 s.
        "socket_timeout": settings.timing.socket,
        "socket_connect_timeout": settings.timing.socket,
        "socket_keepalive": True,
        "health_check_interval": health_check_seconds(settings),
    }
