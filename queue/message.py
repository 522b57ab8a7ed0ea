"""A job's Celery message, written without Celery.

`submit` must start in a blink and put record and message down in one atomic step, so the message is
built here. It is Celery's message protocol 2 in kombu's virtual-transport envelope;
tests/queue/test_message.py holds it against what Celery itself publishes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

TASK = "pi0q.train"
QUEUE = "jobs"
#: Celery's own priority steps on Redis and the suffixes of their lists (kombu/transport/redis.py).
STEPS = {"urgent": 0, "high": 3, "normal": 6, "low": 9}
SEPARATOR = "\x06\x16"


def queue_key(step: int) -> str:
    """The list, below the prefix, in which messages of this priority step wait."""
    return f"{QUEUE}{SEPARATOR}{step}" if step else QUEUE


#: The lists of waiting messages, most urgent first.
QUEUE_KEYS = tuple(queue_key(step) for step in sorted(STEPS.values()))


def box_key(box: str) -> str:
    """The box's own queue: only its Celery worker consumes it."""
    return f"box.{box}"


def job_of(raw: str) -> str | None:
    """The id in a waiting message; None for one that is not ours, which must not stop a scan."""
    try:
        return str(json.loads(raw)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return None


def build(job_id: str, *, name: str, needs: Mapping[str, int], priority: str, origin: str) -> str:
    """The message of a job. It carries the id and, for those who read the queue, name and needs."""
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = base64.b64encode(json.dumps([[], {}, embed]).encode()).decode()
    headers: dict[str, Any] = {
        "lang": "py",
        "task": TASK,
        "id": job_id,
        "root_id": job_id,
        "parent_id": None,
        "group": None,
        "group_index": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": repr((name,)),
        "kwargsrepr": repr(dict(needs)),
        "origin": origin,
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "pi0q": {"name": name, **needs},
    }
    properties = {
        "correlation_id": job_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": STEPS[priority],
        "body_encoding": "base64",
        "delivery_tag": job_id,
    }
    return json.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
