"""The post-run task `wandb`: runs that were kept on this box go to WandB, into the one run that the job has there.

By the `wandb` of the trainer's Python, as a child. The first of a job is sent as it is, which may be repeated; others
are appended: `wandb sync` without `--append` overwrites what the run has at WandB already.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import cache_paths
from pi0q.workers.network import routes, wandb_key
from pi0q.workers.postrun import child_command
from pi0q.workers.postrun.scheduler import RetryLater, TaskContext, TaskDone
from pi0q.workers.runs import ledger, wandb_runs
from pi0q.workers.runs.postrun_tasks import PostrunTask, PostrunTasks
from pi0q.workers.runs.run_directory import RunDirectory

#: Seconds that a sync may take, whatever it sends, and the slowest line that is waited for beyond that, MB/s.
LEAST_SECONDS, SLOWEST_MB_S = 300.0, 0.02
#: How many runs of one job may be found deleted.
MOST_RUNS = 3
#: What it is of the box's environment that would keep WandB from syncing, or is not for it.
DROPPED = (
    "PI0Q_",
    "CELERY_",
    "WANDB_MODE",
    "WANDB_DISABLED",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_SILENT",
    "HF_TOKEN",
)
#: Why it has to wait for a person, or for WandB.
WHY = {
    "none": "{box} has no WandB key: run `wandb login` on it, then `pi0q retry {job}`",
    "refused": "WandB refuses the key of {box}: run `wandb login` on it, then `pi0q retry {job}`",
    "away": "WandB does not answer",
}
_URL = re.compile(r"https?://\S+/runs/\S+")


def wanted(spec: Spec) -> bool:
    """Whether what is kept on the box is to go to WandB: its user wants it online."""
    online = spec.train.get("wandb.mode") in (None, "online")
    return bool(spec.train.get("wandb.enable")) and online and not spec.rehearsal


def task_for(
    spec: Spec, directory: RunDirectory, *, epoch: int, box: str, python: str = "", over: bool = True
) -> PostrunTask | None:
    """The sync of what the runs of a job kept here; None where there is nothing to sync. `over`: no trainer lives."""
    left = wandb_runs.unsynced(directory, over=over) if wanted(spec) else []
    if not left:
        return None
    return PostrunTask(
        kind="wandb",
        epoch=epoch,
        box=box,
        order={"python": python},
        result={"mb": round(wandb_runs.megabytes(left), 3)},
    )


def found(settings: Settings, box: str) -> Iterator[tuple[PostrunTasks, PostrunTask]]:
    """The syncs of runs whose runner did not live to write them down, as this box's ledgers know them."""
    for file in sorted(settings.runs.glob("*/ledger.json")):
        directory, known = RunDirectory(file.parent), ledger.read(file)
        tasks = PostrunTasks(file.parent)
        open_here = any(one.kind == "wandb" for one in tasks.open())
        ours = known is not None and (known.job_id, known.box) == (file.parent.name, box)
        if known is None or not ours or open_here or not wandb_runs.unsynced(directory):
            continue
        with contextlib.suppress(Pi0qError, ValueError, KeyError, TypeError):
            spec = Spec.from_json(json.loads(known.fields["spec"]))
            if made := task_for(spec, directory, epoch=known.epoch, box=box, over=False):
                yield tasks, made


def work(context: TaskContext) -> TaskDone:
    """Syncs them, the oldest first. Raises RetryLater."""
    left = wandb_runs.unsynced(context.directory, ended=context.task.epoch)
    if not left:
        return TaskDone(detail="no WandB data of the run is left on this box")
    told = wandb_key.wandb(context.settings, os.environ, user_home=Path.home())
    if told.state != "ok":
        why = WHY[told.state].format(box=context.task.box, job=context.job_id)
        raise RetryLater(why, slowly=told.state != "away")
    python = child_command.trainer_python(context, "wandb")
    url, size = context.record.wandb_url or "", wandb_runs.megabytes(left)
    for path in left:
        context.say(f"syncing {path.name}")
        url = _sync(context, path, python, append=_has_begun(context)) or url
    if wandb_runs.unsynced(context.directory, ended=context.task.epoch):
        raise RetryLater("more was written meanwhile")
    many = f"{len(left)} runs" if len(left) != 1 else "1 run"
    return TaskDone(detail=f"synced {many}", result={"mb": round(size, 3)}, fields={"wandb_url": url} if url else {})


def _has_begun(context: TaskContext) -> bool:
    """Return whether WandB has data of the job's run beyond the one directory on this box."""
    here = list(wandb_runs.all_runs(context.directory))
    elsewhere = any(event.box not in (None, context.task.box) for event in context.record.history)
    elsewhere = elsewhere or bool(context.record.continues)
    if len(here) == 1 and not elsewhere:
        return False
    return elsewhere or bool(context.record.wandb_url) or any(map(wandb_runs.synced, here))


def _sync(context: TaskContext, path: Path, python: str, *, append: bool) -> str:
    """Sends one run directory; its address at WandB. Raises RetryLater."""
    more = ["--append"] if append else []
    said, errors = _run(context, [python, "-m", "wandb", "sync", *more, str(path)], path)
    run = wandb_runs.run_id(path)
    for _ in range(MOST_RUNS):
        if wandb_runs.DELETED not in errors:
            break
        run = wandb_runs.following(run)
        context.say(f"its run was deleted at WandB: syncing into {run}")
        said, errors = _run(context, [python, "-m", "wandb", "sync", "--append", "--id", run, str(path)], path)
    if errors or not wandb_runs.synced(path):
        # It leaves its mark also where WandB refused all of it.
        wandb_runs.unmark(path)
        raise RetryLater(f"`wandb sync` of {path.name} failed: {child_command.last_line(errors or said)}")
    found = _URL.findall(said)
    return found[-1] if found else ""


def _run(context: TaskContext, argv: list[str], path: Path) -> tuple[str, str]:
    """What the command said, and its errors, which it says in its log alone and then that all is well.

    Raises RetryLater where it takes too long, or the worker stops.
    """
    scratch = context.settings.home / "cache" / "wandb-sync"
    shutil.rmtree(scratch, ignore_errors=True)
    # Where this directory is, its log goes there instead of the system's temporary directory.
    (scratch / "wandb").mkdir(parents=True)
    code, said = child_command.run(
        context, argv, env=env(os.environ, context.settings) | {"WANDB_DIR": str(scratch)}, scratch=scratch,
        limit_seconds=LEAST_SECONDS + wandb_runs.megabytes([path]) / SLOWEST_MB_S,
    )  # fmt: skip
    lines = [line for own in scratch.rglob("debug-cli.*.log") for line in own.read_text(errors="replace").splitlines()]
    errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    if code:
        errors.append(f"it ended with {code}: {child_command.last_line(said)}")
    return said, "\n".join(errors)


def env(base: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What the child gets: its way to WandB, the key as the box has it, and places on the data disk."""
    found = routes.environment(("wandb",), base, settings) | cache_paths.caches(settings)
    return {name: value for name, value in found.items() if not name.startswith(DROPPED)}
