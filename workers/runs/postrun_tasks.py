"""The durable list of a run's post-run tasks: `<run directory>/after.json`.

The runner adds tasks at the end of a run, the worker's scheduler does them (workers/postrun/scheduler.py). A death of
either, or of the box, loses at most the try that was under way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from pi0q.jobs.job_id import is_job_id
from pi0q.workers.host import files

PENDING, DONE, FAILED = "pending", "done", "failed"


@dataclass(frozen=True, kw_only=True)
class PostrunTask:
    """One task of one run; a run has at most one task of each kind."""

    #: A key of scheduler.KINDS.
    kind: str
    #: Claim number of the run that left the task.
    epoch: int
    box: str
    #: Parameters of the work; JSON, never a secret.
    order: Mapping[str, Any] = field(default_factory=dict)
    #: `pending`, `done`, or `failed`: given up until a user runs `pi0q retry`.
    state: str = PENDING
    #: Why it is not done yet, or its result, for the user.
    detail: str = ""
    #: Consecutive failed tries.
    tries: int = 0
    #: Time of the next try by this box's clock, seconds since 1970.
    next_at: float = 0.0
    #: Further values for the record, such as a repository.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Other fields of the record that are written with the task's own.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the record shows the present state.
    told: bool = False
    #: Time of the last `pi0q retry` that was acted on, by the server's clock, ms.
    heeded_ms: int = 0

    def to_record(self) -> dict[str, Any]:
        """Return what the job's record shows of the task."""
        return {**self.result, "state": self.state, "detail": self.detail, "tries": self.tries}


@dataclass(frozen=True)
class PostrunTasks:
    """The tasks of one run directory. Several processes may use it at once. Raises OSError."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "after.json"

    def read(self) -> list[PostrunTask]:
        """Return all tasks; an empty list where the file is missing or damaged."""
        try:
            return [_task(one) for one in json.loads(self.file.read_text(encoding="utf-8"))["chores"]]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return []

    def open(self) -> list[PostrunTask]:
        """Return the tasks that are not done."""
        return [task for task in self.read() if task.state != DONE]

    def add(self, task: PostrunTask) -> None:
        """Add a task; it replaces an earlier one of its kind."""
        with self._changing() as tasks:
            tasks[task.kind] = task

    def change(self, task: PostrunTask, **fields: Any) -> PostrunTask | None:
        """Change fields of a task and return it; None where a later claim has replaced it."""
        with self._changing() as tasks:
            now = tasks.get(task.kind)
            if now is None or now.epoch != task.epoch:
                return None
            tasks[task.kind] = replace(now, **fields)
            return tasks[task.kind]

    def drop(self, task: PostrunTask) -> None:
        """Remove a task that no longer belongs to this box."""
        with self._changing() as tasks:
            if task.kind in tasks and tasks[task.kind].epoch == task.epoch:
                del tasks[task.kind]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, PostrunTask]]:
        with FileLock(self.path / "after.lock"):
            tasks = {task.kind: task for task in self.read()}
            before = dict(tasks)
            yield tasks
            if tasks != before:
                self._write(list(tasks.values()))

    def _write(self, tasks: list[PostrunTask]) -> None:
        text = json.dumps({"chores": [asdict(task) for task in tasks]}, ensure_ascii=False)
        files.write_atomic(self.file, text)


#: Types of the values of a task, by its fields.
_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,), "epoch": (int,), "box": (str,), "order": (dict,), "state": (str,), "detail": (str,),
    "tries": (int,), "next_at": (int, float), "result": (dict,), "fields": (dict,), "told": (bool,),
    "heeded_ms": (int,),
}  # fmt: skip


def _task(raw: Mapping[str, Any]) -> PostrunTask:
    """Return a task as `PostrunTasks` wrote it; a newer pi0q may have written more. Raises ValueError, TypeError."""
    values = {name: value for name, value in raw.items() if name in _TYPES}
    for name, value in values.items():
        if not isinstance(value, _TYPES[name]):
            raise ValueError(f"{name} is not a value of a task")
    return PostrunTask(**values)


def everywhere(runs: Path) -> Iterator[PostrunTasks]:
    """Yield the task list of each run directory of this box that has one."""
    for file in sorted(runs.glob("*/after.json")):
        if is_job_id(file.parent.name):
            yield PostrunTasks(file.parent)
