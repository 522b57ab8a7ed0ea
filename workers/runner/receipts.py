"""What a run leaves for boxes that demand signatures: that this box runs the job, and that the job has ended."""

from __future__ import annotations

import logging

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Saved
from pi0q.jobs.state import ENDED, State
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_context import RunContext

log = logging.getLogger(__name__)


class Receipts(TrainerListener):
    """Signs for this box that it runs the job: at the start and with each checkpoint.

    By that another box may go on with the job after its submitter's signature has expired.
    """

    def __init__(self, context: RunContext, progress: Progress) -> None:
        self.context, self.progress = context, progress

    def begin(self) -> None:
        """Remember the claim here, and tell it to the queue; without the one or the other the run goes on."""
        if not self.context.trust.demanded:
            return
        try:
            self.context.trust.memory.note_claimed(self.context.job_id)
        except OSError as error:
            log.warning("this box can't write down that it runs the job: %s", error)
        self._sign()

    def on_sealed(self, saved: Saved | None) -> None:
        if saved:
            self._sign()

    def _sign(self) -> None:
        try:
            receipt = self.context.trust.receipt(self.context.job_id, self.context.box)
        except (Pi0qError, OSError, ModuleNotFoundError) as error:
            log.warning("this box can't sign that it runs the job: %s", error)
            return
        if receipt:
            self.progress.update(receipt=receipt)


def note_end(context: RunContext, state: State) -> None:
    """Remember that the job has ended, where the run's end is the job's."""
    signature = context.record.any_signature
    if state not in ENDED or not context.trust.demanded:
        return
    try:
        context.trust.memory.note_ended([context.job_id], at_ms=signature.issued_ms if signature else 0)
    except OSError as error:
        log.warning("this box can't write down that the job has ended: %s", error)
