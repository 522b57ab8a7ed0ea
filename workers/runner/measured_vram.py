"""Measured VRAM and pace of a run: told to the server when its trainer has ended, for the next jobs of its shape."""

from __future__ import annotations

import logging

import redis

from pi0q.jobs.outcome import COMPLETE, Reason
from pi0q.jobs.vram_peak import CONTEXT_MIB, LEAST_STEPS
from pi0q.workers.runner import pace_report
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runs.vram_watch import VramWatch

log = logging.getLogger(__name__)


def keep(session: RunSession, watch: VramWatch, reason: Reason) -> None:
    """Keep what the trainer held of its GPU and its pace; nothing where the server is away or the dataset unknown."""
    context = session.context
    record = context.record
    oom = reason is Reason.CUDA_OUT_OF_MEMORY
    counts = oom or (watch.peak_mib > 0 and watch.steps >= LEAST_STEPS)
    if not counts or not (key := pace_report.shape_key(context)):
        return
    # What it had and what it was promised: neither was enough.
    short = max(watch.peak_mib + CONTEXT_MIB, record.needs.get("vram_mib", 0)) if oom else 0
    try:
        session.ownership.store.keep_peak(
            key,
            peak_mib=0 if oom else watch.peak_mib,
            oom_mib=short,
            run=(context.job_id, context.box),
            done=reason in COMPLETE,
        )
        if watch.steps >= LEAST_STEPS:
            pace_report.keep(context, session.progress, session.ownership.store)
    except redis.RedisError as error:
        log.info("the measured VRAM of this run could not be kept for the next of its shape: %s", error)
