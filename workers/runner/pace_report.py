"""Pace of a run: told to the server while it trains and when it ends, for what the next job of its shape will take."""

from __future__ import annotations

import contextlib

import redis

from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.schema import lerobot_tables
from pi0q.queue import measured_peaks
from pi0q.queue.store import Store
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.trainer import local_datasets

#: Steps of a run after which its pace is told, and seconds after which it is told again.
FIRST_STEPS, EVERY = 100, 3600.0


def shape_key(context: RunContext) -> str:
    """Return the key of the run's shape; "" for a rehearsal, a run without a GPU or one whose dataset is not known."""
    spec, record = context.spec, context.record
    facts = local_datasets.facts(spec.train, context.settings) or DatasetInfo.of_any(record.preflight)
    line = lerobot_tables.line(context.request.lerobot)
    if not (record.gpus and line and facts and facts.images) or spec.rehearsal:
        return ""
    return measured_peaks.key(spec, facts.images, line)


def keep(context: RunContext, progress: Progress, store: Store) -> None:
    """Tell the pace of now, if it is known. Raises redis.RedisError."""
    seconds = progress.fields.get("step_seconds")
    # Beside others on a card it is slower than alone.
    if seconds and not context.spec.resources.share and (key := shape_key(context)):
        store.keep_pace(key, (context.job_id, context.box), seconds)


class PaceReport:
    """Tells the pace of a run that goes on, so that a job that is submitted meanwhile has it; one thread uses it."""

    def __init__(self, context: RunContext, progress: Progress) -> None:
        self._context, self._progress = context, progress
        self._first_step: int | None = None
        self._due = 0.0

    def send(self, store: Store, now: float) -> None:
        """Tell it if it is due at `now`, seconds of a clock that only grows; a server that is away hears it later."""
        step = self._progress.fields.get("step")
        if not isinstance(step, int):
            return
        # A run that goes on from a checkpoint, or from one before that, begins there.
        self._first_step = step if self._first_step is None else min(step, self._first_step)
        if step - self._first_step < FIRST_STEPS or now < self._due:
            return
        with contextlib.suppress(redis.RedisError):
            keep(self._context, self._progress, store)
            self._due = now + EVERY
