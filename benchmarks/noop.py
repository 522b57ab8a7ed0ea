"""What RQ's workers run in benchmarks/start.py: a task that says when its first line ran, and nothing else.

Imported under this name; NOOP_REDIS_URL names the server.
"""

from __future__ import annotations

import os
import time

import redis

URL = os.environ["NOOP_REDIS_URL"]
answers = redis.Redis.from_url(URL)


def noop(answer: str) -> None:
    """Answers on this list."""
    answers.lpush(answer, time.time())
