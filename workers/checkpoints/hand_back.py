"""Wait for the last copy before a run hands its job back: another box may go on from that copy."""

from __future__ import annotations

import time
from collections.abc import Callable

from pi0q.jobs import replicas
from pi0q.jobs.outcome import Reason
from pi0q.workers.checkpoints.replicator import Replicator
from pi0q.workers.runs.lease import Lease


def await_last_copy(replicator: Replicator, reason: Reason, lease: Lease, *, give_up: Callable[[], bool]) -> None:
    """Wait at most `copy_seconds` of the settings, while the lease lasts, and until `give_up`.

    Returns at once where no other box may take the job after an end of this reason.
    """
    if reason not in replicas.HANDED_OVER:
        return
    deadline = time.monotonic() + replicator.settings.copy_seconds
    replicator.finish(lambda: give_up() or not lease.is_valid() or time.monotonic() >= deadline)
