"""Plan what follows a run: the push of its policy, its last copy, and the sync of trackers' runs kept on this box."""

from __future__ import annotations

import logging
from typing import Any

from pi0q.jobs.outcome import COMPLETE, Reason
from pi0q.jobs.record import Saved
from pi0q.workers.postrun import last_copy, push, swanlab_sync, wandb_sync
from pi0q.workers.runs.postrun_tasks import PostrunTasks
from pi0q.workers.runs.run_context import RunContext

log = logging.getLogger(__name__)


def plan_tasks(context: RunContext, reason: Reason, *, behind: Saved | None) -> dict[str, Any]:
    """Write down the post-run tasks of a run that ends for this reason; return what the record is to say of them.

    Call it before the end is reported to the queue: then the tasks survive the death of any process in between.
    `behind`: the newest checkpoint, where it is not copied yet.
    """
    fields = dict[str, Any]()
    spec, tasks, epoch, box = context.spec, PostrunTasks(context.directory.path), context.epoch, context.box
    try:
        if reason in COMPLETE and (task := push.task_for(spec, epoch=epoch, box=box)):
            tasks.add(task)
            fields["push"] = task.to_record()
        if reason is not Reason.STOPPED_BY_BOX and (task := last_copy.task_for(spec, behind, epoch=epoch, box=box)):
            tasks.add(task)
            fields["copy"] = task.to_record()
        # Of this box alone, so that it is reported under the box's name: see lua/postrun.lua.
        python = context.request.python
        for tracker in (wandb_sync, swanlab_sync):
            if task := tracker.task_for(spec, context.directory, epoch=epoch, box=box, python=python):
                tasks.add(task)
    except OSError as error:
        log.info("could not write the list of post-run tasks: %s", error)
    return fields
