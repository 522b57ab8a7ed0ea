"""Retrying scheduler of post-run tasks: the push, the last copy, trackers' syncs. They need the network and no GPU.

    the runner adds a task (runs/postrun_tasks.py) -> a round finds it due -> a child process does it -> the record

At most one thread of each kind works. A failed task is tried again after 1 to 30 minutes, without end; a task that
needs a person first is tried every 30 minutes, and at once after `pi0q retry ID`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import redis

from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED
from pi0q.queue.ownership_lost import OwnershipLost, StaleServer
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.store_base import number
from pi0q.queue.store_types import PostrunStatus
from pi0q.workers.host.backoff import Backoff
from pi0q.workers.runs.postrun_tasks import DONE, FAILED, PENDING, PostrunTask, PostrunTasks, everywhere
from pi0q.workers.runs.run_directory import RunDirectory

logger = logging.getLogger(__name__)


class RetryLater(Exception):
    """The task could not be done now. `slowly`: a person has to act first; `asked`: delay that a server asked for."""

    def __init__(self, why: str, *, asked: float = 0.0, slowly: bool = False) -> None:
        self.asked, self.slowly = asked, slowly
        super().__init__(why)


class GiveUp(Exception):
    """The task can't be done, however often it is tried; `pi0q retry` tries it all the same."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What the work of one task needs."""

    task: PostrunTask
    settings: Settings
    directory: RunDirectory
    #: The job as the queue knows it.
    record: Record
    #: Reports progress; shown as the task's detail.
    say: Callable[[str], None]
    #: Set when the worker stops: the work must end soon, with RetryLater.
    stopping: threading.Event

    @property
    def job_id(self) -> str:
        return self.directory.path.name


@dataclass(frozen=True, kw_only=True)
class TaskDone:
    """The result of a task."""

    detail: str
    #: Values for the record's field of this kind: an address, a size.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Further fields of the record.
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """How tasks of one kind are done."""

    #: The work, "module:function": TaskContext -> TaskDone; raises RetryLater or GiveUp.
    work: str
    #: The field of the record that shows it.
    field: str
    #: Whether it concerns only files of this box (the field maps boxes), also while the job goes on elsewhere;
    #: else it concerns the whole job, after its end.
    own: bool = False
    #: Finds tasks whose runner died before it wrote them down, "module:function": (settings, box) -> tasks of each
    #: run; "" where only the runner knows.
    found: str = ""
    #: Whether it may be done while the job trains here.
    live: bool = False

    def load(self) -> Callable[[TaskContext], TaskDone]:
        work: Callable[[TaskContext], TaskDone] = _named(self.work)
        return work


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


#: Kind of a task -> how it is done.
KINDS: dict[str, TaskKind] = {
    "push": TaskKind(work="pi0q.workers.postrun.push:work", field="push"),
    "copy": TaskKind(work="pi0q.workers.postrun.last_copy:work", field="copy"),
    "wandb": TaskKind(
        work="pi0q.workers.postrun.wandb_sync:work",
        field="wandb_sync",
        own=True,
        found="pi0q.workers.postrun.wandb_sync:found",
    ),
    "swanlab": TaskKind(
        work="pi0q.workers.postrun.swanlab_sync:work",
        field="swanlab_sync",
        own=True,
        found="pi0q.workers.postrun.swanlab_sync:found",
        live=True,
    ),
}

#: Delay before a failed task is tried again.
RETRY = Backoff(first=60.0, longest=1800.0)
#: Seconds between two searches for tasks that were not written down.
FIND_SECONDS = 60.0


def retry_delay(tries: int, *, asked: float = 0.0, slowly: bool = False) -> float:
    """Return the seconds before the next try after so many failed ones.

    `asked`: the seconds that the other side asked for; `slowly`: a person has to act first.
    """
    return RETRY.longest if slowly else min(RETRY.longest, max(RETRY.delay(tries), asked))


class PostrunScheduler(threading.Thread):
    """Does the tasks of one box until it is stopped; the next worker continues a task that was interrupted."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        box: str,
        kinds: Mapping[str, TaskKind] = KINDS,
        clock: Callable[[], float] = time.time,
        due: threading.Event | None = None,
    ) -> None:
        """`clock` gives seconds since 1970: delays outlive this process. `due` is set when tasks may be due."""
        super().__init__(name="postrun", daemon=True)
        self.settings, self.store, self.box, self.kinds, self.clock = settings, store, box, kinds, clock
        self.stopping, self.due = threading.Event(), due or threading.Event()
        #: Imported now: the package may be upgraded in place while the worker runs on.
        self._work = {name: kind.load() for name, kind in kinds.items()}
        self._find = [_named(kind.found) for kind in kinds.values() if kind.found]
        self._found_at = -FIND_SECONDS
        self._busy: dict[str, threading.Thread] = {}

    # -- the thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        timing = self.settings.timing
        while not self.stopping.is_set():
            try:
                self.round()
                # Wakes up when a job ends or a user asks for a retry; else a delay may be over.
                self.due.wait(timing.beat)
                self.due.clear()
            except redis.RedisError:
                self.stopping.wait(timing.retry)
            except Exception:
                logger.exception("could not look for post-run tasks; trying again")
                self.stopping.wait(timing.beat)

    def stop(self, patience: float = 5.0) -> None:
        """Stop the thread and the tasks that it is doing."""
        self.stopping.set()
        self.due.set()
        deadline = time.monotonic() + patience
        for thread in list(self._busy.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def round(self) -> None:
        """Start the tasks that are due, and report changes that the queue has not received yet."""
        if time.monotonic() - self._found_at >= FIND_SECONDS:
            self._found_at = time.monotonic()
            for find in self._find:
                for tasks, task in find(self.settings, self.box):
                    tasks.add(task)
        for tasks in everywhere(self.settings.runs):
            # Read before the tasks: a try that ends in between must not be started again.
            busy = frozenset(self._busy)
            for task in tasks.read():
                if task.kind in self.kinds and not (task.state == DONE and task.told):
                    self._consider(tasks, task, busy)

    def _consider(self, tasks: PostrunTasks, task: PostrunTask, busy: Container[str]) -> None:
        try:
            record = self.store.get(tasks.path.name)
        except (NotFound, BadRecord):
            # An emptied queue, or one with older data: a ledger may restore the job yet. Or a damaged record.
            return
        if not self._may_do(tasks, task, record):
            return
        requested = self._retry_requested_ms(record.id)
        if requested > task.heeded_ms:
            task = tasks.change(task, heeded_ms=requested, next_at=0.0, tries=0) or task
            if task.state == FAILED:
                task = tasks.change(task, state=PENDING, told=False) or task
        if not task.told:
            self._report(tasks, task)
        if task.state == PENDING and self._due(task) and task.kind not in busy:
            thread = threading.Thread(target=self._do, args=(tasks, task, record), name=f"postrun {task.kind}")
            thread.daemon = True
            self._busy[task.kind] = thread
            thread.start()

    def _may_do(self, tasks: PostrunTasks, task: PostrunTask, record: Record) -> bool:
        """Return whether the task may be done now; a task that belongs to a later claim is dropped."""
        kind = self.kinds[task.kind]
        if kind.own:
            over = record.state not in OWNED or kind.live
            return task.epoch < record.epoch or (task.epoch == record.epoch and over)
        if task.epoch > record.epoch or (task.epoch == record.epoch and record.state in OWNED):
            return False
        if (record.epoch, record.box) != (task.epoch, self.box) or record.ended_ms is None:
            logger.info("%s: dropped its %s task: claim %d has the job now", record.id, task.kind, record.epoch)
            tasks.drop(task)
            return False
        return True

    def _due(self, task: PostrunTask) -> bool:
        # A clock that was set back must not delay it for hours.
        return not 0 < task.next_at - self.clock() <= RETRY.longest

    def _retry_requested_ms(self, job_id: str) -> int:
        return number(self.store.client.hget(self.store.prefix + f"job:{job_id}", "retry_ms"))

    # -- one task --------------------------------------------------------------------------------------

    def _do(self, tasks: PostrunTasks, task: PostrunTask, record: Record) -> None:
        """Try one task, in a thread of its own: a child process dies with the thread that started it."""
        try:
            context = TaskContext(
                task=task, settings=self.settings, directory=RunDirectory(tasks.path), record=record,
                say=lambda text: self._report_progress(tasks, task, text), stopping=self.stopping,
            )  # fmt: skip
            done = self._work[task.kind](context)
            logger.info("%s: %s done: %s", record.id, task.kind, done.detail)
            result = {**task.result, **done.result}
            self._set(tasks, task, state=DONE, detail=done.detail, result=result, fields=done.fields)
        except RetryLater as why:
            if not self.stopping.is_set():
                self._retry_later(tasks, task, str(why), asked=why.asked, slowly=why.slowly)
        except GiveUp as why:
            logger.warning("%s: %s failed for good: %s", record.id, task.kind, why)
            self._set(tasks, task, state=FAILED, detail=str(why), tries=task.tries + 1)
        except Exception as error:
            # A fault of pi0q: other tasks go on, and this one is retried slowly.
            logger.exception("%s: %s failed with a fault of pi0q", record.id, task.kind)
            with contextlib.suppress(OSError):
                self._retry_later(
                    tasks, task, f"failed with {type(error).__name__} (see the worker's log)", slowly=True
                )
        finally:
            self._busy.pop(task.kind, None)
        self._report_now(tasks, task)

    def _retry_later(
        self, tasks: PostrunTasks, task: PostrunTask, why: str, *, asked: float = 0.0, slowly: bool = False
    ) -> None:
        tries = task.tries + 1
        delay = retry_delay(tries, asked=asked, slowly=slowly)
        logger.warning("%s: %s not done: %s; retry in %.0f s", tasks.path.name, task.kind, why, delay)
        self._set(tasks, task, detail=why, tries=tries, next_at=self.clock() + delay)

    def _set(self, tasks: PostrunTasks, task: PostrunTask, **fields: Any) -> None:
        tasks.change(task, told=False, **fields)

    def _report_progress(self, tasks: PostrunTasks, task: PostrunTask, text: str) -> None:
        with contextlib.suppress(OSError):
            self._set(tasks, task, detail=text)
        self._report_now(tasks, task)

    def _report_now(self, tasks: PostrunTasks, task: PostrunTask) -> None:
        # What can't be reported now is reported in a later round.
        with contextlib.suppress(redis.RedisError, OSError):
            for now in tasks.read():
                if (now.kind, now.epoch) == (task.kind, task.epoch) and not now.told:
                    self._report(tasks, now)

    def _report(self, tasks: PostrunTasks, task: PostrunTask) -> None:
        kind = self.kinds[task.kind]
        try:
            status = PostrunStatus(field=kind.field, status=task.to_record(), own=kind.own)
            self.store.report_postrun(tasks.path.name, task.epoch, box=self.box, task=status, fields=task.fields)
        except StaleServer:
            return
        except OwnershipLost:
            tasks.drop(task)
            return
        tasks.change(task, told=True)
