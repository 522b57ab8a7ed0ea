"""The post-run task `swanlab`: what the trainers of a job wrote goes to SwanLab, into the one run that it has there.

By `swanlab sync` of the trainer's Python, as a child. It asks SwanLab for the last step of each curve and sends what
comes after that, so that it may be repeated, and a step that two lives trained is there once. While a job trains, the
same is done every few minutes: its curves are at SwanLab with that delay, and no network is near the training.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pi0q.jobs import tracking
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import cache_paths
from pi0q.workers.network import routes, swanlab_key
from pi0q.workers.postrun import child_command
from pi0q.workers.postrun.scheduler import RetryLater, TaskContext, TaskDone
from pi0q.workers.runs import ledger, swanlab_runs
from pi0q.workers.runs.postrun_tasks import PostrunTask, PostrunTasks
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.swanlab_runs import Life

KIND = "swanlab"
#: Seconds between two syncs of a job that trains.
LIVE_SECONDS = 180.0
#: Seconds that a sync may take, whatever it sends, and the slowest line that is waited for beyond that, MB/s.
LEAST_SECONDS, SLOWEST_MB_S = 300.0, 0.02
#: SwanLab's command; its console script may lie anywhere.
COMMAND = "from swanlab.cli import cli; cli()"
#: What is kept of SwanLab's own variables: whose key, which server. Others would send the run elsewhere.
KEPT = ("SWANLAB_API_KEY", "SWANLAB_API_HOST", "SWANLAB_WEB_HOST", "SWANLAB_ROOT", "SWANLAB_SAVE_DIR")
#: Why it has to wait for a person, or for SwanLab.
WHY = {
    "none": "{box} has no SwanLab key: run `swanlab login` on it, then `pi0q retry {job}`",
    "refused": "SwanLab refuses the key of {box}: run `swanlab login --relogin` on it, then `pi0q retry {job}`",
    "away": "SwanLab does not answer",
}
#: Tries in which a box waits for one that trained the job before it: half an hour. That one may be gone for good.
PATIENCE_TRIES = 5
#: What `swanlab sync` says, with success, of an upload that failed.
FAILED = ("Confirm sync finish failed", "Upload did not finish", "skipping; error")
#: What it says of a file that holds no number yet: its trainer was killed as it began.
UNREADABLE = ("Cannot scan records", "missing the required start record", "Failed to open sync store")
_URL = re.compile(r"https?://\S+/runs/\S+")


def wanted(spec: Spec) -> bool:
    """Return whether what lies on the box is to go to SwanLab."""
    return spec.tracking.swanlab and spec.tracking.mode == "online" and not spec.rehearsal


def task_for(
    spec: Spec, directory: RunDirectory, *, epoch: int, box: str, python: str = "", quiet: bool = False
) -> PostrunTask | None:
    """Return the sync of what the runs of a job left here; None where nothing is left.

    `quiet`: the record shows it once it was tried; a sync beside the training is no news.
    """
    left = swanlab_runs.unsent(directory) if wanted(spec) else []
    if not left:
        return None
    mb = round(swanlab_runs.megabytes(left), 3)
    return PostrunTask(kind=KIND, epoch=epoch, box=box, order={"python": python}, result={"mb": mb}, told=quiet)


def found(settings: Settings, box: str) -> Iterator[tuple[PostrunTasks, PostrunTask]]:
    """Yield the syncs that are due of jobs that train now, and of those whose runner died, by this box's ledgers."""
    for file in sorted(settings.runs.glob("*/ledger.json")):
        directory, known = RunDirectory(file.parent), ledger.read(file)
        tasks = PostrunTasks(file.parent)
        if known is None or (known.job_id, known.box) != (file.parent.name, box):
            continue
        if not _is_due(directory) or any(one.kind == KIND for one in tasks.open()):
            continue
        with contextlib.suppress(Pi0qError, ValueError, KeyError, TypeError):
            spec = Spec.from_json(json.loads(known.fields["spec"]))
            if made := task_for(spec, directory, epoch=known.epoch, box=box, quiet=True):
                yield tasks, made


def _is_due(directory: RunDirectory) -> bool:
    lives = swanlab_runs.lives(directory)
    last = max((life.sent_at for life in lives), default=0.0)
    return not all(life.complete for life in lives) and not 0 <= time.time() - last < LIVE_SECONDS


def work(context: TaskContext) -> TaskDone:
    """Send what is left, the oldest first. Raises RetryLater."""
    left = swanlab_runs.unsent(context.directory)
    if not left:
        return TaskDone(detail="no SwanLab data of the run is left on this box")
    begun = any(life.sent for life in swanlab_runs.lives(context.directory))
    if not begun and (before := earlier_boxes(context)) and context.task.tries < PATIENCE_TRIES:
        raise RetryLater(f"{', '.join(before)} sends first what came before")
    told = swanlab_key.check(context.settings, os.environ, user_home=Path.home())
    if told.state != "ok":
        why = WHY[told.state].format(box=context.task.box, job=context.job_id)
        raise RetryLater(why, slowly=told.state != "away")
    python, url, size = child_command.trainer_python(context, "swanlab"), "", swanlab_runs.megabytes(left)
    for life in left:
        url = _sync(context, life, python) or url
    fields = {"swanlab_url": url} if url else {}
    return TaskDone(detail=f"synced {size:.1f} MB", result={"mb": round(size, 3)}, fields=fields)


def earlier_boxes(context: TaskContext) -> list[str]:
    """Return the boxes that trained the job before this one and still keep some of it.

    SwanLab takes no step below the last that it has, so that their part has to come first.
    """
    last: dict[str, int] = {}
    for event in context.record.history:
        if event.box:
            last[event.box] = max(event.epoch, last.get(event.box, 0))
    kept = context.record.swanlab_sync.items()
    pending = {box for box, told in kept if told.get("state") == "pending"} - {context.task.box}
    return sorted(box for box in pending if last.get(box, 0) < context.task.epoch)


def _sync(context: TaskContext, life: Life, python: str) -> str:
    """Send one life; return the run's address at SwanLab. Raises RetryLater."""
    run_id = tracking.run_id(str(context.record.wandb_run_id or f"pi0q-{context.job_id}"))
    argv = [python, "-c", COMMAND, "sync", "--id", run_id, str(life.path)]
    said = _run(context, argv, life)
    if not life.sent and life.path == swanlab_runs.lives(context.directory)[-1].path and _trains(context):
        # The first sync of a run that goes on calls it crashed; the second finds it and lets it run.
        said += _run(context, argv, life)
    life.mark_sent(life.size)
    addresses = _URL.findall(said)
    return str(addresses[-1]) if addresses else ""


def _trains(context: TaskContext) -> bool:
    return context.directory.live_runner(context.task.epoch) is not None


def _run(context: TaskContext, argv: list[str], life: Life) -> str:
    scratch = context.settings.home / "cache" / "swanlab-sync"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    limit = LEAST_SECONDS + life.size / 1e6 / SLOWEST_MB_S
    code, said = child_command.run(
        context, argv, env=env(os.environ, context.settings), scratch=scratch, limit_seconds=limit
    )
    if code and any(words in said for words in UNREADABLE):
        return ""
    if code or any(failure in said for failure in FAILED):
        raise RetryLater(f"`swanlab sync` of {life.path.name} failed: {child_command.last_line(said)}")
    return said


def env(base: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return what the child gets: the key as the box has it, its own way out, and places on the data disk."""
    found = routes.environment((), base, settings) | cache_paths.caches(settings)
    kept = {
        name: value
        for name, value in found.items()
        if name in KEPT or not name.startswith(("PI0Q_", "CELERY_", "HF_TOKEN", "WANDB_", "SWANLAB_"))
    }
    # Its lines are told apart by their ends, and an address is one word.
    return kept | {"COLUMNS": "1000", "NO_COLOR": "1", "SWANLAB_INTERACTIVE": "false"}
