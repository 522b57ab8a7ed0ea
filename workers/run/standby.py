"""A runner before it has an order: imported, connected and ready."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pi0q.queue import settings as all_settings
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.run import environment, process
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.order import Order


def await_order(scripts: Sequence[str]) -> tuple[Order, Settings, Store] | None:
    """The order on standard input, and all that it takes to carry it out; None without one."""
    # A terminal's Ctrl-C and hang-up are not meant for a run. Handlers, since a trainer would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    settings = all_settings.load()
    # huggingface_hub reads where its caches and the token are when it is imported.
    os.environ.update(environment.caches(settings))
    client = connect(settings)
    # The reporter tries again by itself; redis-py would try for longer than a short lease.
    client.set_retry(Retry(NoBackoff(), 1))
    store = Store(client, settings.prefix)
    store.load(*scripts)
    with contextlib.suppress(redis.RedisError):
        store.now_ms()
    line = sys.stdin.readline()
    if not line.strip():
        return None
    process.adopt()
    return Order(**json.loads(line)), settings, store


def leave_the_worker(directory: RunDirectory) -> None:
    """From now on standard output and input are the run's own: the worker may go."""
    directory.path.mkdir(parents=True, exist_ok=True)
    with (directory.path / "runner.log").open("a") as own:
        os.dup2(own.fileno(), 1)
        os.dup2(own.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
