"""Post-run tasks that are not done yet, as users read them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pi0q.jobs.record import Record
from pi0q.jobs.schema import trained_model
from pi0q.jobs.state import ENDED, State

if TYPE_CHECKING:
    from pi0q.jobs.spec import Spec


def push_to(spec: Spec) -> str | None:
    """Return the Hub repository that gets the trained policy, as LeRobot decides it; None where it is not pushed."""
    pushes, repo = (trained_model.setting(spec.train, name) for name in ("push_to_hub", "repo_id"))
    return str(repo) if repo and pushes is not False and not spec.rehearsal else None


def push_status(job: Record) -> str:
    """Return `pending: the Hub could not be reached` if the push of the policy is not done; else ""."""
    if job.state is not State.SUCCEEDED or job.push.get("state") not in ("pending", "failed"):
        return ""
    return f"{job.push['state']}: {job.push.get('detail') or 'it begins soon'}"


def push_left(job: Record) -> Iterator[str]:
    """Yield `push pending: the Hub could not be reached` if the push of the policy is not done."""
    if status := push_status(job):
        yield f"push {status}"


def copy_left(job: Record) -> Iterator[str]:
    """Yield `copy pending: …` if the copy of the last checkpoint is not made."""
    if job.state in ENDED and job.copy.get("state") in ("pending", "failed"):
        yield f"copy {job.copy['state']}: {job.copy.get('detail') or 'it begins soon'}"


def wandb_left(job: Record) -> Iterator[str]:
    """Yield `WandB offline, 3.1 MB to sync` for each box that keeps some of the run."""
    yield from _sync_left("WandB", job, job.wandb_sync)


def swanlab_left(job: Record) -> Iterator[str]:
    """Yield the same of SwanLab; while the job trains only what keeps it from being sent."""
    yield from _sync_left("SwanLab", job, job.swanlab_sync)


def _sync_left(tracker: str, job: Record, kept: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for box, told in sorted(kept.items()):
        if told.get("state") in ("pending", "failed"):
            why = f" ({told['detail']})" if told.get("detail") else ""
            where = f" on {box}" if box != job.box else ""
            yield f"{tracker} offline, {float(told.get('mb') or 0):.1f} MB to sync{where}{why}"


def left(job: Record) -> list[str]:
    """Return what is still to do for a job, each in a few words."""
    return [*push_left(job), *copy_left(job), *wandb_left(job), *swanlab_left(job)]
