"""Start of a run from another job's checkpoint: bring its weights here, or name the commit of the Hub that has them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import redis

from pi0q.jobs import start_point
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.schema import trained_model
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import StartPoint
from pi0q.workers.checkpoints import signers, start_sources, start_weights
from pi0q.workers.checkpoints.start_sources import Pushed
from pi0q.workers.checkpoints.start_weights import StartWeights, Unusable
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runs.stop import Stop
from pi0q.workers.trainer import owner_rules

log = logging.getLogger(__name__)


def with_start(session: RunSession, *, resuming: bool) -> Spec:
    """Return the job with the weights that it starts from as a directory of this box, or as a commit of the Hub.

    One that resumes needs none, unless it trains an adapter. Raises Stop, LeaseExpired and OSError.
    """
    context, spec = session.context, session.context.spec
    reference, start = start_point.parse(policy_sizes.base(spec)), context.record.starts_from
    weights = None
    if start:
        weights = StartWeights(
            start=start,
            place=context.directory.start,
            settings=context.settings,
            lease=session.lease,
            over=session.replicator.closed,
            show=lambda text: session.progress.update(phase=text),
            # Its submitter signed which manifest it is.
            signers=signers.wanted(context.trust, context.settings, box=context.box, jobs=None),
        )
    if (resuming and not policy_sizes.adapted_base(spec)) or reference is None:
        if weights:
            weights.remove()
        return spec
    # Without a step it means the last checkpoint, which the record fixed when the other job ended.
    same = start is not None and reference.job == start.job and reference.step in (None, start.step)
    if weights is None or start is None or not same:
        raise Stop(Reason.SPEC_REFUSED, f"its file names {reference}, and its record another start")
    found = _bring(session, weights)
    session.progress.update(phase="")
    if isinstance(found, Path):
        _check_type(spec, found, start)
        return _at(spec, str(found))
    named = _at(spec, found.repo_id, found.commit)
    if refused := next(owner_rules.problems(named, context.settings), ""):
        raise Stop(Reason.SPEC_REFUSED, f"{context.box} may not run it: {refused}")
    return named


def _bring(session: RunSession, weights: StartWeights) -> Path | Pushed:
    """Return the directory of the weights on this box, or where the Hub has them. Raises Stop, LeaseExpired."""
    start, runs = weights.start, session.context.settings.runs
    if present := weights.present():
        return present
    whys = list[str]()
    if here := start_sources.on_disk(runs, start):
        try:
            model = weights.link(here)
        except Unusable as error:
            whys.append(f"on this disk: {error}")
            log.warning("the checkpoint in %s can't be started from: %s", here, error)
        else:
            log.info("starts from the checkpoint in %s", here)
            return model
    sources = _records(session, start)
    for copies in start_sources.copies(start, sources):
        try:
            model = weights.fetch(copies, epoch=session.context.epoch)
        except Unusable as error:
            whys.append(f"in {copies.place}: {error}")
            continue
        log.info("brought the weights of %s back from %s", start.reference, copies.place)
        return model
    # Which commit was pushed is only another box's word.
    if not weights.signers and (found := next(start_sources.pushed(start, sources), None)):
        log.info("starts from %s at %s, to which %s was pushed", found.repo_id, found.commit[:8], start.reference)
        return found
    raise _missing(start, whys)


def _records(session: RunSession, start: StartPoint) -> Sequence[Record]:
    try:
        return start_sources.records(session.ownership.store, start)
    except redis.RedisError as error:
        raise Stop(Reason.NETWORK, f"where {start.reference} lies can't be asked now: {error}") from None


def _missing(start: StartPoint, whys: Sequence[str]) -> Stop:
    if whys:
        return Stop(Reason.WEIGHTS_DAMAGED, f"{start.reference}, from which it starts, is of no use: {'; '.join(whys)}")
    # It was there when the job was claimed: now the box refuses it, and says who has it.
    return Stop(Reason.STOPPED_BY_BOX, f"{start.reference}, from which it starts, is not here any more")


def _check_type(spec: Spec, model: Path, start: StartPoint) -> None:
    here, there = trained_model.kind(spec.train), start_weights.model_type(model)
    if here and there and here != there:
        raise Stop(Reason.SPEC_REFUSED, f"{start.reference} holds a policy of type {there}, and the job trains {here}")


def _at(spec: Spec, base: str, revision: str = "") -> Spec:
    train = {**spec.train, start_point.flag_of(spec.train): base}
    if revision:
        train[f"{trained_model.section(spec.train)}.pretrained_revision"] = revision
    return replace(spec, train=train)
