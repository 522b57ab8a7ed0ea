"""What a job reads from outside, fetched and verified as its own run would: that run then downloads nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import usage_locks
from pi0q.workers.hub import fetch as downloads
from pi0q.workers.hub import requirements, torch_weights
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import Pins


def wanted(job: Record, spec: Spec, lerobot: str) -> tuple[Fetch, ...]:
    """Return the repositories that the job's next run reads."""
    return requirements.wanted(spec, resuming=job.checkpoint is not None, lerobot=lerobot)


def fetch(
    fetches: Iterable[Fetch],
    settings: Settings,
    *,
    pins: Pins,
    on_phase: Callable[[str], None],
    may_go_on: Callable[[], bool] = lambda: True,
) -> dict[str, str]:
    """Download these into the cache; return the commit of each, by pin. Raises HubError and Abandoned.

    Unlike a run, whoever calls this lives on and uses none of them: they are not left in use.
    """
    chosen = list(fetches)
    marks = usage_locks.of_hub(settings.hf_home)
    try:
        fetched = downloads.prepare(
            chosen, settings, pins=pins, on_phase=lambda phase: on_phase(str(phase)), may_go_on=may_go_on
        )
        return dict(fetched.commits)
    finally:
        for one in chosen:
            usage_locks.let_go(marks, one.folder(settings.hf_home).name)


def parts_bytes(fetch: Fetch, settings: Settings) -> int:
    """Return the bytes of files that a download of this repository has begun; it goes on from there."""
    found = 0
    for part in (fetch.folder(settings.hf_home) / "blobs").glob("*.incomplete"):
        # A part may become a blob at any moment.
        with contextlib.suppress(OSError):
            found += part.stat().st_size
    return found


def fetch_torch_weights(spec: Spec, settings: Settings, lerobot: str) -> str:
    """Bring the weights that torchvision would fetch at the trainer's start; return their file's name, "" for none.

    `spec`: its base named as a directory of this box. Raises HubError.
    """
    name = torch_weights.wanted(spec, lerobot, checkpoint=None)
    if name is None or not settings.torch_weights:
        return ""
    torch_weights.prepare(name, settings, lambda phase: None)
    usage_locks.let_go(usage_locks.of_box(settings.home), torch_weights.CACHE)
    return name
