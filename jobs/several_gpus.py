"""A job on several GPUs: what a step sees, and with how many GPUs a checkpoint may go on."""

from __future__ import annotations

from pi0q.jobs.schema.defaults import number
from pi0q.jobs.spec import Spec


def ranks(spec: Spec) -> int:
    """Return how many trainers the job is: one for each GPU, and one on the CPU."""
    return max(1, 1 if spec.resources.gpus is None else spec.resources.gpus)


def batch_note(spec: Spec) -> str:
    """Return what a step sees: `batch 8 on each of 2 GPUs: 16 a step; …`; "" for a job of one trainer."""
    count, batch = ranks(spec), number(spec.train, "batch_size")
    if count == 1:
        return ""
    return f"batch {batch} on each of {count} GPUs: {batch * count} a step; the learning rate is not scaled"


def change_note(before: int, after: int) -> str:
    """Return what a change of the number of GPUs does to a training that goes on; "" where there is none."""
    if before == after:
        return ""
    return (
        f"it trained on {_gpus(before)} and goes on with {_gpus(after)}, as its file says: a step sees another batch, "
        "and the order of the data differs from that of a run that was never interrupted"
    )


def refusal(before: int, after: int, *, step: int, job_id: str) -> str:
    """Return why a job does not go on from a checkpoint of another number of GPUs, and the fix."""
    return (
        f"its checkpoint of step {step} was trained on {_gpus(before)}, and the job has {_gpus(after)}: the order of "
        f"its data would differ. Nothing was trained. Fix: pi0q retry {job_id} --file FILE, with "
        f"`resources: {{gpus: {before}}}` to go on as before, or another number on purpose"
    )


def version_fault(spec: Spec, lerobot: str) -> str:
    """Return why this LeRobot can't train the job on several GPUs; "" where it can.

    LeRobot 0.4 does not write the number of its processes into a checkpoint, from which later ones reckon the order of
    the data: an interrupted training would go on with other data.
    """
    if ranks(spec) == 1 or not lerobot.startswith("0.4."):
        return ""
    return (
        f"LeRobot {lerobot} here keeps no order of the data for {_gpus(ranks(spec))}, so that an interrupted training "
        "would not go on exactly. Fix: pip install 'lerobot>=0.5' there, or `resources: {gpus: 1}`"
    )


def _gpus(count: int) -> str:
    return "one GPU" if count == 1 else f"{count} GPUs"
