"""The post-run task `copy`: copy the last checkpoint of a job that has ended; its GPU is free by then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pi0q.jobs import replicas
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.workers.checkpoints import local_store, replicate_client
from pi0q.workers.checkpoints.replicate_client import CopyOutcome, CopyRequest, ReplicaTarget
from pi0q.workers.hub.blobs import amount
from pi0q.workers.postrun.scheduler import GiveUp, RetryLater, TaskContext, TaskDone
from pi0q.workers.runs.postrun_tasks import PostrunTask


def task_for(spec: Spec, behind: Saved | None, *, epoch: int, box: str) -> PostrunTask | None:
    """Return the task that copies the last checkpoint of a run that ends; None where it is copied already."""
    if behind is None:
        return None
    order = {"place": replicas.place_of(spec), "keep": spec.checkpoints.keep, "checkpoint": vars(behind)}
    return PostrunTask(kind="copy", epoch=epoch, box=box, order=order)


def work(context: TaskContext) -> TaskDone:
    """Copy the checkpoint, without a lease: nobody else can own a job that has ended. Raises RetryLater or GiveUp."""
    order, saved = context.task.order, Saved(**context.task.order["checkpoint"])
    if not local_store.is_sealed(Path(saved.path)):
        raise GiveUp(f"the checkpoint of step {saved.step} is not on {context.task.box} any more")
    target = ReplicaTarget(place=order["place"], job_id=context.job_id, epoch=context.task.epoch, keep=order["keep"])
    shown = ""

    def show(done: int, total: int) -> None:
        nonlocal shown
        if (text := amount(done, total)) != shown:
            shown = text
            context.say(f"copying step {saved.step} to {target.place}, {text}")

    result = replicate_client.copy(
        target,
        CopyRequest(checkpoint=saved, spared=context.record.protected_steps, xet=context.task.tries % 2 == 0),
        context.settings,
        over=context.stopping,
        show=show,
    )
    match result.outcome:
        case CopyOutcome.COPIED:
            copy = replace(saved, path=result.path)
            return TaskDone(detail=f"step {saved.step}", fields={"copied": vars(copy), "copy_detail": ""})
        case CopyOutcome.DAMAGED:
            raise GiveUp(result.error)
        case CopyOutcome.CANCELLED:
            raise RetryLater("the worker stopped")
    raise RetryLater(result.error)
