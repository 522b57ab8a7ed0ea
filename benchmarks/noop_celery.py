"""The same for Celery's workers; apart, since RQ imports the task's module anew in each of its forks."""

from __future__ import annotations

import noop
from celery import Celery

app = Celery("noop", broker=noop.URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    broker_transport_options={"global_keyprefix": "noop:"},
)
celery_noop = app.task(name="noop")(noop.noop)
