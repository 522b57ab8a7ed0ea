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
from pi0q.queue import app as celery_app
from pi0q.queue import settings as all_settings
from pi0q.queue.connection import connect
from pi0q.queue.store import Store
from pi0q.workers import again, agent, control, door, orphans, tasks
from pi0q.workers.aftercare import Aftercare
from pi0q.workers.box import Box
from pi0q.workers.ending import Ending
from pi0q.workers.presence import NameTaken

logger = logging.getLogger("pi0q")


@click.command()
@click.option(
    "--slots",
    type=click.IntRange(1, 64),
    help="Jobs at a time; the number of GPUs when left out, at least 1.",
)
@click.option("--name", metavar="BOX", help="This box's name; its host name when left out.")
def worker(slots: int | None, name: str | None) -> None:
    """Make this machine a box: claim jobs that fit its free VRAM and disk, and run them.

    Stopping it (Ctrl-C, SIGTERM, even kill -9) stops no training: the next `pi0q worker` here finds it again.
    A server that is away is waited for.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = all_settings.load()
    if name:
        settings = replace(settings, box=all_settings.READERS["box"](name))
    settings.home.mkdir(parents=True, exist_ok=True)
    lives = again.earlier(os.environ)
    try:
        # Who looks whether a worker runs holds it for a moment; in a new life it was let go for one.
        with FileLock(settings.home / "worker.lock", timeout=1 if lives is None else 10):
            serve(settings, slots, lives)
    except Timeout:
        raise UsageError(
            f"A worker already runs with PI0Q_HOME={settings.home}; nothing was started.\n"
            "One is enough: give it --slots for more jobs at a time."
        ) from None


def serve(settings: all_settings.Settings, slots: int | None, lives: again.Lives | None) -> None:
    """Runs the Celery worker of this box until it is stopped; one that ends by itself begins anew."""
    began, known = time.monotonic(), lives or again.Lives(strangers=orphans.strangers())
    store = Store(connect(settings), settings.prefix)
    box = Box(settings, store, slots=1, strangers=known.strangers)
    box.slots = slots or max(1, len(box.measure().gpus))
    box.orphans.adopt()
    # Runners read their settings from the environment.
    os.environ["PI0Q_HOME"] = str(settings.home)
    os.environ["PI0Q_REDIS_URL"] = settings.redis_url
    ending = Ending(box)
    door.enter(box, patient=lives is not None)
    click.echo(f"Box {box.name} takes jobs from {settings.safe_url()}, {box.slots} at a time; runs: {settings.runs}")
    aftercare = Aftercare(settings, Store(connect(settings), settings.prefix), box=box.name)
    aftercare.start()
    try:
        celery(box, ending)
    finally:
        box.stopping.set()
        aftercare.stop()
        box.launcher.close()
        # Nobody adopts what a runner leaves behind that died just now.
        box.orphans.end()
    if why := ending.why():
        following = known.after(time.monotonic() - began)
        pause = following.pause(settings.timing.retry)
        logger.warning("%s\nThis worker starts anew in %.1f s; running trainings go on.", why, pause)
        if not ending.told.wait(pause):
            again.begin(following)
    with contextlib.suppress(redis.RedisError, NameTaken):
        box.announce(status="stopped")


def celery(box: Box, ending: Ending) -> None:
    """Celery's worker, from its start to its end."""
    app = celery_app.make(box.settings, box=box.name)
    tasks.register(app, box)
    control.install(box.store)
    app.steps["worker"].add(agent.step(box, ending.listen, ending.give_up))
    running = app.Worker(
        hostname=f"pi0q@{box.name}",
        pool="threads",
        # One more than jobs at a time: the thread of a job that ended still waits for its runner to be gone when the
        # next is claimed.
        concurrency=box.slots + 1,
        task_events=True,
        without_mingle=True,
        without_gossip=True,
        loglevel="INFO",
        quiet=True,
        redirect_stdouts=False,
    )
    running.start()
    ending.code = running.exitcode
