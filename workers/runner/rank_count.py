"""How many trainers a job was and is: a checkpoint goes on with as many, unless its user changed the number."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from pi0q.jobs import several_gpus
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.stop import Stop

log = logging.getLogger(__name__)

#: Where LeRobot writes it, in a checkpoint; 0.4 does not.
STATE = "training_state/training_step.json"


def check(context: RunContext, saved: Saved | None) -> None:
    """Raise Stop where a checkpoint was trained by another number of ranks than the job has.

    A job that continues another one has the number that its user wrote into its file.
    """
    before, now = of_checkpoint(saved) if saved else None, max(1, len(context.record.gpus))
    if saved is None or before is None or before == now:
        return
    if context.record.continues:
        log.warning("%s", several_gpus.change_note(before, now))
        return
    why = several_gpus.refusal(before, now, step=saved.step, job_id=context.job_id)
    raise Stop(Reason.SPEC_REFUSED, why)


def of_checkpoint(saved: Saved) -> int | None:
    """Return how many ranks trained a checkpoint; None where it does not say."""
    try:
        told = json.loads((Path(saved.path) / STATE).read_bytes()).get("num_processes")
    except (OSError, ValueError, AttributeError):
        return None
    return told if isinstance(told, int) and told > 0 else None
