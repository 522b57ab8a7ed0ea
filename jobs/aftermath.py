"""What is left to do for a run and needs the network: its words and its times. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import ENDED, State

#: Seconds before the next try after a first one that failed; twice that the next time.
FIRST_REST_SECONDS = 60.0
#: The longest rest between two tries, whoever asked for longer; also for what only a person can mend.
LONGEST_REST_SECONDS = 1800.0


def rest_seconds(tries: int, *, asked: float = 0.0, slowly: bool = False) -> float:
    """How long a chore rests after this many tries in a row that failed.

    `asked` is what whoever refused it said; `slowly`: a person has to act first, so it is asked for now and then.
    """
    if slowly:
        return LONGEST_REST_SECONDS
    doubled = FIRST_REST_SECONDS * 2.0 ** min(max(tries - 1, 0), 10)
    return min(LONGEST_REST_SECONDS, max(doubled, asked))


def push_to(spec: Spec) -> str | None:
    """The Hub's repository that gets the policy when it is trained: as LeRobot does, unless told otherwise."""
    pushes = spec.train.get("policy.push_to_hub", True) and not spec.rehearsal
    return str(spec.train["policy.repo_id"]) if pushes and spec.train.get("policy.repo_id") else None


def push_left(job: Record) -> Iterator[str]:
    """`push pending: the Hub could not be reached`, where the push of its policy is not done."""
    if job.state is State.SUCCEEDED and job.push.get("state") in ("pending", "failed"):
        yield f"push {job.push['state']}: {job.push.get('detail') or 'it begins soon'}"


def copy_left(job: Record) -> Iterator[str]:
    """`copy pending: …`, where the copy of its last checkpoint is not made."""
    if job.state in ENDED and job.copy.get("state") in ("pending", "failed"):
        yield f"copy {job.copy['state']}: {job.copy.get('detail') or 'it begins soon'}"


def wandb_left(job: Record) -> Iterator[str]:
    """`WandB offline, 3.1 MB to sync`, for each box that keeps some of its run."""
    for box, told in sorted(job.wandb_sync.items()):
        if told.get("state") in ("pending", "failed"):
            why = f" ({told['detail']})" if told.get("detail") else ""
            where = f" on {box}" if box != job.box else ""
            yield f"WandB offline, {float(told.get('mb') or 0):.1f} MB to sync{where}{why}"


def left(job: Record) -> list[str]:
    """What still waits to be done for a job, each in a few words."""
    return [*push_left(job), *copy_left(job), *wandb_left(job)]
