"""Whether a box has the directories that a new job reads, as far as the boxes say so while its user still looks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import State

if TYPE_CHECKING:
    from pi0q.queue.user_store import UserStore

#: Seconds that a submit waits for boxes that are idle, for all its jobs together; they look at once.
PATIENCE_SECONDS, PAUSE_SECONDS = 1.5, 0.05


def reads_a_directory(spec: Spec) -> bool:
    """Return whether the job reads a dataset or weights that must lie on a box already."""
    return bool(spec.train.get("dataset.root")) or str(policy_sizes.base(spec) or "").startswith("/")


def told(store: UserStore, job_ids: Sequence[str]) -> Iterator[str]:
    """Yield what boxes found missing for these jobs, one sentence each."""
    until = time.monotonic() + PATIENCE_SECONDS
    for job_id in job_ids:
        job = store.get(job_id)
        while job.state is State.QUEUED and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)
            job = store.get(job_id)
        if job.lacks:
            yield f"{job.name} {job_id} is held {job.held}. It goes on by itself once a box has it."
