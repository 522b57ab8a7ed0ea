"""What a run leaves to the aftercare of its box: the push of its policy, its last copy, WandB runs kept here."""

from __future__ import annotations

from typing import Any, Protocol

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.workers.after import last_copy, push, sync
from pi0q.workers.run.chores import Chores
from pi0q.workers.run.copies import Copies
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.log import Log
from pi0q.workers.run.order import Order


class Run(Protocol):
    """What is asked of a run that ends."""

    order: Order
    record: Record
    directory: RunDirectory
    box: str
    lease: Lease
    log: Log
    copies: Copies


def leave(run: Run, reason: Reason) -> dict[str, Any]:
    """Writes the chores of a run that ends for this reason beside it; what the record is to say of them.

    Before the queue hears of the end: whoever dies in between, they are there. None of a run that is another's now.
    """
    told = dict[str, Any]()
    if not run.lease.ours():
        return told
    spec, chores, epoch = Spec.from_json(run.record.spec), Chores(run.directory.path), run.order.epoch
    try:
        if reason is Reason.FINISHED and (chore := push.chore(spec, epoch=epoch, box=run.box)):
            chores.add(chore)
            told["push"] = chore.to_record()
        if reason is not Reason.STOPPED_BY_BOX and (
            chore := last_copy.chore(spec, run.copies.behind(), epoch=epoch, box=run.box)
        ):
            chores.add(chore)
            told["copy"] = chore.to_record()
        # Of this box alone, so that it is told under its name: see after.lua.
        if chore := sync.chore(spec, run.directory, epoch=epoch, box=run.box, python=run.order.python):
            chores.add(chore)
    except OSError as error:
        run.log.say(f"what is left to do after this run could not be written down: {error}")
    return told
