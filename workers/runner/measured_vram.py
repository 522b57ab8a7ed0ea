"""Measured VRAM and pace of a run: told to the server when its trainer has ended, for the next jobs of its shape."""

from __future__ import annotations

import logging

import redis

from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.outcome import COMPLETE, Reason
from pi0q.jobs.schema import lerobot_tables
from pi0q.jobs.vram_peak import CONTEXT_MIB, LEAST_STEPS
from pi0q.queue import measured_peaks
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runs.vram_watch import VramWatch
from pi0q.workers.trainer import local_datasets

log = logging.getLogger(__name__)


def keep(session: RunSession, watch: VramWatch, reason: Reason) -> None:
    """Keep what the trainer held of its GPU and its pace; nothing where the server is away or the dataset unknown."""
    context = session.context
    spec, record = context.spec, context.record
    facts = local_datasets.facts(spec.train, context.settings) or DatasetInfo.of_any(record.preflight)
    line = lerobot_tables.line(context.request.lerobot)
    oom = reason is Reason.CUDA_OUT_OF_MEMORY
    counts = oom or (watch.peak_mib > 0 and watch.steps >= LEAST_STEPS)
    if not (counts and record.gpus and line and facts and facts.images) or spec.rehearsal:
        return
    # What it had and what it was promised: neither was enough.
    short = max(watch.peak_mib + CONTEXT_MIB, record.needs.get("vram_mib", 0)) if oom else 0
    key = measured_peaks.key(spec, facts.images, line)
    try:
        session.ownership.store.keep_peak(
            key,
            peak_mib=0 if oom else watch.peak_mib,
            oom_mib=short,
            run=(context.job_id, context.box),
            done=reason in COMPLETE,
        )
        seconds = session.progress.fields.get("step_seconds")
        # Beside others on a card it is slower than alone.
        if watch.steps >= LEAST_STEPS and seconds and not spec.resources.share:
            session.ownership.store.keep_pace(key, context.box, seconds)
    except redis.RedisError as error:
        log.info("the measured VRAM of this run could not be kept for the next of its shape: %s", error)
