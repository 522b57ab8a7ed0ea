"""`pi0q worker`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from dataclasses import replace

import click
import redis
from filelock import FileLock, Timeout

from pi0q.jobs.errors import UsageError
from pi0q.queue import celery_app
from pi0q.queue import settings as all_settings
from pi0q.queue.broken_records import BrokenRecordLog
from pi0q.queue.capacity import MOST_ON_A_CARD
from pi0q.queue.connection import connect
from pi0q.queue.store import Store
from pi0q.workers.agent import agent, orphans, remote_control, restart, startup, task
from pi0q.workers.agent.box import Box
from pi0q.workers.agent.heartbeat import NameTaken
from pi0q.workers.agent.shutdown import Shutdown
from pi0q.workers.host import process_limits
from pi0q.workers.postrun.scheduler import PostrunScheduler

logger = logging.getLogger(__name__)


@click.command()
@click.option(
    "--slots",
    type=click.IntRange(1, 64),
    help="Jobs at a time, those that share a card counted once; the number of GPUs when left out, at least 1.",
)
@click.option("--name", metavar="BOX", help="This box's name; its host name when left out.")
def worker(slots: int | None, name: str | None) -> None:
    """Make this machine a box: claim jobs that fit its free VRAM and disk, and run them.

    Stopping it (Ctrl-C, SIGTERM, even kill -9) stops no training: the next `pi0q worker` here re-attaches to it.
    It waits for a server that cannot be reached.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = all_settings.load()
    if name:
        settings = replace(settings, box=all_settings.named_box(name))
    all_settings.make_home(settings)
    restarts = restart.earlier(os.environ)
    try:
        # Whoever checks for a worker holds the lock for a moment, and a restart releases it for one.
        with FileLock(settings.home / "worker.lock", timeout=1 if restarts is None else 10):
            serve(settings, slots, restarts)
    except Timeout:
        raise UsageError(
            f"A worker already runs with PI0Q_HOME={settings.home}; nothing was started.\n"
            "One is enough. Fix: for more jobs at a time stop it and start it with --slots N."
        ) from None


def serve(settings: all_settings.Settings, slots: int | None, restarts: restart.Restarts | None) -> None:
    """Run the Celery worker of this box until it is stopped; one that ends by itself restarts in place."""
    process_limits.forbid_core_dumps()
    began = time.monotonic()
    known = restarts or restart.Restarts(foreign_children=orphans.foreign_children())
    store = Store(connect(settings), settings.prefix, on_broken=BrokenRecordLog())
    box = Box(settings, store, slots=1, foreign_children=known.foreign_children)
    box.context.slots = slots or max(1, len(box.context.measure().gpus))
    box.orphans.adopt()
    # Runners read their settings from the environment.
    os.environ["PI0Q_HOME"] = str(settings.home)
    os.environ["PI0Q_REDIS_URL"] = settings.redis_url
    shutdown = Shutdown(box)
    startup.enter(box, patient=restarts is not None)
    served = f"{box.context.slots} at a time; runs: {settings.runs}"
    click.echo(f"Box {box.name} takes jobs from {settings.safe_url()}, {served}")
    work(box, shutdown)
    if why := shutdown.why():
        following = known.after(time.monotonic() - began)
        pause = following.pause(settings.timing.retry)
        logger.warning("%s\nThis worker restarts in %.1f s; running trainings go on.", why, pause)
        if not shutdown.requested.wait(pause):
            restart.begin(following)
    with contextlib.suppress(redis.RedisError, NameTaken):
        box.announce(status="stopped")


def work(box: Box, shutdown: Shutdown) -> None:
    """Run Celery and the post-run tasks; leave no process behind but the runners and what belongs to them."""
    settings = box.context.settings
    postrun = PostrunScheduler(settings, box.context.store, box=box.name, due=box.context.postrun_due)
    postrun.start()
    try:
        celery(box, shutdown)
    finally:
        box.context.stopping.set()
        postrun.stop()
        box.launcher.close()
        # No one else ends what a runner leaves behind that died just now.
        box.orphans.end()


def celery(box: Box, shutdown: Shutdown) -> None:
    """Run Celery's worker from its start to its end."""
    app = celery_app.make(box.context.settings, box=box.name)
    task.register(app, box)
    remote_control.install(box.context.store)
    app.steps["worker"].add(agent.step(box, shutdown.listen, shutdown.give_up))
    running = app.Worker(
        hostname=f"pi0q@{box.name}",
        pool="threads",
        # Those that share a card have one slot together. And one more than jobs at a time: the thread of a job that
        # ended still waits for its runner to be gone when the next is claimed.
        concurrency=box.context.slots * MOST_ON_A_CARD + 1,
        task_events=True,
        without_mingle=True,
        without_gossip=True,
        loglevel="INFO",
        quiet=True,
        redirect_stdouts=False,
    )
    running.start()
    shutdown.code = running.exitcode
