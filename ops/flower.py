"""Flower with our records in it: every job and its whole history, whoever was listening when it happened.

Flower knows only the events that it hears itself. Here a *feeder* reads the records and tells Flower of each
change in Celery's words, so that a Flower started later shows the same as one that was always there. What the
workers' own events say of tasks is left out: they end when a box stops, not when a job does.
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import RedisError

from pi0q.jobs.errors import NotFound, UsageError
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State
from pi0q.ops import stored
from pi0q.queue import app as celery_app
from pi0q.queue import message, render
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store, heard

if TYPE_CHECKING:
    from flower.app import Flower

USER = "pi0q"
#: Newest ended jobs that Flower shows.
HISTORY = 3000
#: Jobs told to Flower in one go, so that its pages stay quick meanwhile.
BATCH = 100
#: Seconds between two looks at all jobs, in case a change was not heard.
LOOK_SECONDS = 60.0
#: Seconds in which several changes of a job become one.
GATHER_SECONDS = 0.3
RETRY_SECONDS = 5.0
#: Seconds after which a box that is gone leaves the list of workers.
PURGE_SECONDS = 3600
#: Upper bounds, in seconds, of the buckets of the runtime metric: ten minutes to a week.
RUNTIME_BUCKETS = [600.0, 3600.0, 21600.0, 86400.0, 172800.0, 604800.0]
#: Stands for the box of a job that ended without one; an event must come from somewhere.
NO_BOX = "none"
COLUMNS = "args,uuid,state,result,received,started,runtime,worker"

log = logging.getLogger("pi0q.flower")

Event = dict[str, Any]


# -- a record in Celery's words ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Told:
    """What Flower has been told of a job."""

    state: State
    epoch: int


def events(job: Record, told: Told | None) -> list[Event]:
    """The Celery events that bring Flower from what it was told to what is so now, oldest first."""
    said: list[Event] = []
    add = partial(_event, said, job)
    if told is None:
        add("task-sent", job.created_ms, queue=message.QUEUE, exchange="", routing_key=message.QUEUE)
        told = Told(state=State.QUEUED, epoch=0)
    if told.state in ENDED:
        return said
    waits = job.state not in OWNED and job.state not in ENDED
    # Each claim raises the epoch, so that one which was not heard of is seen.
    claimed = job.epoch > told.epoch
    if (told.state in OWNED and (waits or claimed)) or (waits and claimed):
        # Only `task-retried` lets a task that was started fall back (celery/events/state.py, Task.event).
        add("task-retried", job.updated_ms, exception=_why(job))
    if claimed and not waits:
        add("task-received", job.created_ms, exception=None)
    before_start = (State.CLAIMED, State.PREPARING)
    if job.started_ms and not waits and job.state not in before_start and (claimed or told.state in before_start):
        add("task-started", job.started_ms)
    if job.state is State.SUCCEEDED:
        add("task-succeeded", job.ended_ms, runtime=_runtime(job))
    elif job.state is State.FAILED:
        add("task-failed", job.ended_ms, exception=_why(job), traceback="\n".join([job.cure, *render.seen(job)]))
    elif job.state is State.CANCELLED:
        add("task-revoked", job.ended_ms, exception=_why(job), terminated=True, signum=None, expired=False)
    return said


def _event(said: list[Event], job: Record, kind: str, at_ms: int | None, **fields: Any) -> None:
    sent = kind == "task-sent"
    said.append(
        {
            "type": kind,
            "uuid": job.id,
            "name": message.TASK,
            "root_id": job.id,
            "parent_id": None,
            "args": job.name,
            "kwargs": render.wanted(job.needs),
            "result": result(job),
            "retries": max(0, job.attempt - 1),
            # Of the queue, not of the box: it is what the page is sorted by.
            "received": job.created_ms / 1000,
            "hostname": job.submitter if sent else f"pi0q@{job.box or NO_BOX}",
            "timestamp": (at_ms or job.updated_ms) / 1000,
            # 0: it is no sign of life of the box.
            "local_received": 0,
            "clock": 0,
            **fields,
        }
    )


def result(job: Record) -> str:
    """One line on how far a job is or what it left."""
    saved = job.checkpoint
    parts = [_why(job) if job.state is not State.SUCCEEDED else ""]
    parts.append(f"step {render.progress(job)}" if job.step is not None else "")
    if job.state is State.RUNNING:
        parts += [
            "" if job.loss is None else f"loss {job.loss:.3g}",
            f"{render.span(job.eta_seconds)} left" if job.eta_seconds is not None else "",
        ]
    if job.state in OWNED:
        parts.append("cancelling" if job.wish == "cancel" else job.phase)
    elif job.state not in ENDED:
        parts.append(render.wanted(job.needs))
    if saved:
        parts.append(f"saved {saved.path}" if job.state in ENDED else f"saved {saved.step}")
    parts.append(job.wandb_url or ("WandB offline" if job.wandb_dir else ""))
    return " · ".join(part for part in parts if part)


def _why(job: Record) -> str:
    return f"{job.reason}: {job.detail}" if job.reason else job.detail


def _runtime(job: Record) -> float | None:
    return (job.ended_ms - job.started_ms) / 1000 if job.started_ms and job.ended_ms else None


# -- the feeder --------------------------------------------------------------------------------------


class Feeder(threading.Thread):
    """Reads the records and tells Flower; only Flower's own thread ever touches Flower's state."""

    def __init__(self, store: Store, web: Flower) -> None:
        super().__init__(name="pi0q-feeder", daemon=True)
        self.store = store
        self.web = web
        self.told: dict[str, Told] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until `stopping`; a server that is away is waited for."""
        while not self.stopping.is_set():
            try:
                self._follow()
            except RedisError as error:
                log.warning("The queue can't be read (%s); tried again in %.0f s.", error, RETRY_SECONDS)
                self.stopping.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        pubsub = self.store.subscribe("changes")
        with pubsub:
            while not self.stopping.is_set():
                # Listening began before this look, so nothing falls between the two.
                self._hand_over(self.store.page(live=-1, ended=HISTORY).jobs)
                look_again = time.monotonic() + LOOK_SECONDS
                while not self.stopping.is_set() and time.monotonic() < look_again:
                    changed = set(heard(pubsub, 2.0))
                    if changed:
                        self.stopping.wait(GATHER_SECONDS)
                        changed.update(heard(pubsub, 0.0))
                        self._hand_over(self._records(changed))

    def _records(self, ids: Iterable[str]) -> list[Record]:
        found = []
        for job_id in ids:
            if ":" in job_id:
                continue
            try:
                found.append(self.store.get(job_id))
            except NotFound:
                log.debug("%s is gone", job_id)
        return found

    def _hand_over(self, jobs: Sequence[Record]) -> None:
        for at in range(0, len(jobs), BATCH):
            self.web.io_loop.add_callback(self.tell, jobs[at : at + BATCH])

    def tell(self, jobs: Sequence[Record]) -> None:
        """Brings Flower's state up to the records. Runs in Flower's thread."""
        state = self.web.events.state
        for job in jobs:
            told = self.told.get(job.id) if job.id in state.tasks else None
            if told and told.state in ENDED:
                continue
            for event in events(job, told):
                state.event(event)
            # Progress is no event: thousands of `task-started` would make nonsense of the metrics.
            task = state.tasks[job.id]
            task.result = result(job)
            if not job.box:
                task.worker = None
            state.search_engine.upsert(task)
            self.told[job.id] = Told(state=job.state, epoch=job.epoch)


# -- Flower itself -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where Flower listens and whom it lets in."""

    port: int
    address: str = "127.0.0.1"
    user: str = USER
    password: str
    #: No buttons.
    read_only: bool = False


def password(home: Path, path: Path | None = None) -> str:
    """The password of the page, made at the first time. Raises UsageError if the file can't serve."""
    path = path or home / "flower.password"
    if not path.exists():
        stored.write(path, secrets.token_urlsafe(16) + "\n", 0o600)
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Can't read Flower's password in {path}: {error}. Nothing was started.") from None
    if not found or not found.isascii() or not found.isprintable():
        raise UsageError(
            f"{path} must hold one line of printable ASCII. Nothing was started.\nRemove it to have one made."
        )
    return found


def build(settings: Settings, store: Store, door: Door) -> Flower:
    """Flower, not yet listening."""
    from flower.api import BaseApiHandler
    from flower.app import Flower
    from flower.options import options
    from flower.urls import settings as handlers_settings

    chosen: dict[str, Any] = {
        "port": door.port,
        "address": door.address,
        "basic_auth": [f"{door.user}:{door.password}"],
        "read_only": door.read_only,
        "purge_offline_workers": PURGE_SECONDS,
        "task_runtime_metric_buckets": RUNTIME_BUCKETS,
        "tasks_columns": COLUMNS,
        "natural_time": True,
        # The workers send events unasked.
        "enable_events": False,
    }
    for name, value in chosen.items():
        setattr(options, name, value)
    # It warns whenever no box is there to answer.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    capp = celery_app.make(settings)
    # At the record itself: it works for jobs that wait and while no box can be reached.
    capp.control.revoke = partial(cancel, store)
    web = Flower(capp=capp, options=options, **handlers_settings)
    web.events.on_event = without_tasks(web.events.on_event)
    BaseApiHandler.write_error = asking_for_password(BaseApiHandler.write_error)
    return web


def cancel(store: Store, task_id: str, **_: Any) -> None:
    """What Flower's Terminate and Revoke do."""
    store.cancel(task_id, text="cancelled in Flower")


def without_tasks(on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    """Lets what workers say of themselves through, and not what they say of tasks."""

    def pass_on(event: Event) -> None:
        if not event["type"].startswith("task-"):
            on_event(event)

    return pass_on


def asking_for_password(write_error: Callable[..., None]) -> Callable[..., None]:
    """Lets a browser that was led straight to a job's page give the password to the buttons there too.

    Flower's API refuses without naming a scheme, and a browser then keeps the password it knows to itself.
    """

    def refuse(handler: Any, status_code: int, **fields: Any) -> None:
        if status_code == 401:
            handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
        write_error(handler, status_code, **fields)

    return refuse


def serve(settings: Settings, door: Door, say: Callable[[str], None]) -> None:
    """Runs Flower until Ctrl-C or SIGTERM. Raises UsageError if its port is taken."""
    store = Store(connect(settings), settings.prefix)
    web = build(settings, store, door)
    try:
        port = web.start_http_server()
    except OSError as error:
        raise UsageError(
            f"Flower can't listen on {door.address}:{door.port}: {error.strerror}. Nothing was started.\n"
            "Choose another port with --port, or --port 0 for any that is free."
        ) from None
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda *_: web.io_loop.add_callback_from_signal(web.stop))
    say(f"Flower: http://{door.address}:{port}  user {door.user}, password in its file. Ctrl-C stops it.")
    if door.address not in ("127.0.0.1", "::1", "localhost"):
        say("Other machines can reach it, and the password crosses the network unencrypted: prefer `ssh -L`.")
    feeder = Feeder(store, web)
    feeder.start()
    try:
        web.start()
    finally:
        feeder.stopping.set()
