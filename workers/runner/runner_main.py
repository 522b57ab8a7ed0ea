"""Entry of the runner process: import, connect, wait for a run request on standard input, then run the job.

It waits imported and connected, so that a claim becomes a trainer in milliseconds. It outlives the Celery worker that
started it; if it dies, its trainer dies with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.spec import parse
from pi0q.queue import settings as all_settings
from pi0q.queue.broken_records import BrokenRecordLog
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.host import cache_paths, process_limits, process_tree
from pi0q.workers.runner.runner import refuse, run
from pi0q.workers.runner.stop_requests import StopRequests
from pi0q.workers.runs import trainer_log
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.run_request import RunRequest

#: Scripts of the store that a run needs, read before it begins: the package may be upgraded in place below it.
SCRIPTS = ("report", "curve", "move", "restore", "drain")
#: A job file that every version of pi0q can read.
ANY_JOB = b"train: {dataset: {repo_id: a/b}, policy: {type: act, push_to_hub: false}}"


def await_request(scripts: Sequence[str]) -> tuple[RunRequest, Settings, Store] | None:
    """Return the request on standard input, and what it takes to run it; None where there is none."""
    # A terminal's Ctrl-C and hang-up are not meant for a run. Handlers, since a trainer would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    settings = all_settings.load()
    # huggingface_hub reads where its caches and the token are when it is imported.
    os.environ.update(cache_paths.caches(settings))
    client = connect(settings)
    # The reporter tries again by itself; redis-py would try for longer than a short lease.
    client.set_retry(Retry(NoBackoff(), 1))
    store = Store(client, settings.prefix, on_broken=BrokenRecordLog())
    store.load(*scripts)
    with contextlib.suppress(redis.RedisError):
        store.now_ms()
    warm_up()
    line = sys.stdin.readline()
    if not line.strip():
        return None
    process_tree.become_subreaper()
    return RunRequest(**json.loads(line)), settings, store


def warm_up() -> None:
    """Build what the first job would wait for: the tables of LeRobot's flags, the pattern that hides secrets."""
    parse(ANY_JOB, filename="any job")
    trainer_log.secrets_pattern(trainer_log.escaped_secrets(os.environ))


def leave_the_worker(directory: RunDirectory) -> None:
    """Detach standard output and input from the worker, which may go now."""
    directory.path.mkdir(parents=True, exist_ok=True)
    with (directory.path / "runner.log").open("a") as own:
        os.dup2(own.fileno(), 1)
        os.dup2(own.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def main() -> None:
    """Wait for a run request and run it; without one end with the worker that started this process."""
    process_limits.forbid_core_dumps()
    if (given := await_request(SCRIPTS)) is None:
        return
    request, settings, store = given
    try:
        context, stops = RunContext.load(request, settings, store), StopRequests()
    except Pi0qError as error:
        refuse(request, store, error)
        return
    # In a thread: the main one may hold a lock that the handler wants.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stops.on_sigterm).start())
    leave_the_worker(context.directory)
    run(context, store, stops)


if __name__ == "__main__":
    main()
