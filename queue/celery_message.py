"""A job's Celery message, written without Celery.

`submit` must start in a blink and put record and message down in one atomic step, so the message is
built here. It is Celery's message protocol 2 in kombu's virtual-transport envelope;
tests/queue/test_celery_message.py holds it against what Celery itself publishes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from pi0q.jobs.job_id import is_job_id

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


#: What the names of the boxes' own queues begin with.
BOX_QUEUES = "box."


def fault(raw: Any) -> str:
    """Return why a message cannot be one of `build`; empty where it can. Nothing of it is decoded or trusted."""
    if not isinstance(raw, dict):
        return "it is no JSON object"
    headers, properties = raw.get("headers"), raw.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return "it lacks headers or properties"
    if headers.get("task") != TASK:
        return f"its task is not {TASK}"
    if not is_job_id(headers.get("id")):
        return "its id is no job's"
    return _body_fault(raw, headers, properties)


def _body_fault(raw: Mapping[str, Any], headers: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    if headers.get("compression") or raw.get("content-type") != "application/json":
        return "its body is no plain JSON"
    if not isinstance(properties.get("delivery_tag"), str) or properties.get("body_encoding") != "base64":
        return "its properties are not Celery's"
    try:
        args, kwargs, _ = json.loads(base64.b64decode(str(raw.get("body")), validate=True))
    except (ValueError, TypeError, RecursionError):
        return "its body cannot be read"
    return "" if args == [] and kwargs == {} else "it carries arguments"


def box_key(box: str) -> str:
    """The box's own queue: only its Celery worker consumes it."""
    return f"{BOX_QUEUES}{box}"


def job_of(raw: str) -> str | None:
    """The id in a waiting message; None for one that is not ours, which must not stop a scan."""
    try:
        job_id = json.loads(raw)["headers"]["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return job_id if is_job_id(job_id) else None


def build(job_id: str, *, name: str, needs: Mapping[str, int], priority: str, origin: str) -> str:
    """The message of a job. It carries the id and, for those who read the queue, name and needs."""
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = base64.b64encode(json.dumps([[], {}, embed]).encode()).decode()
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
            "headers": _headers(job_id, name, needs, origin),
            "properties": properties,
        }
    )


def _headers(job_id: str, name: str, needs: Mapping[str, int], origin: str) -> dict[str, Any]:
    """Celery's headers of a task, and under `pi0q` what Flower shows of the job."""
    return {
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
