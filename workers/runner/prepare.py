"""Preparation of a run: find its newest good checkpoint, and download what its trainer needs into this box's cache."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import inherit, local_store, signers
from pi0q.workers.checkpoints.restore import Restored, Restorer
from pi0q.workers.compiled import facts, sharing
from pi0q.workers.compiled.sharing import CompiledKernels
from pi0q.workers.host import process_tree
from pi0q.workers.hub import cached, fetch, requirements, torch_weights
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.session import Pins
from pi0q.workers.network import wandb_key
from pi0q.workers.network.wandb_key import WANDB
from pi0q.workers.runner import messages, rank_count, starting
from pi0q.workers.runner.run_session import RunSession
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.stop import Stop
from pi0q.workers.trainer import owner_rules
from pi0q.workers.trainer.local_datasets import local_root

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run whose trainer finds on this box all that it needs."""

    #: The run, its spec reading from the cache.
    context: RunContext
    #: What the trainer's environment needs for that.
    cache_env: Mapping[str, str]
    #: The checkpoint from which it goes on.
    start: Restored
    #: Its compiled kernels, where they travel between boxes.
    kernels: CompiledKernels | None = None


def prepare(session: RunSession) -> Prepared:
    """Find the newest good checkpoint and download what the trainer needs. Raises Stop, LeaseExpired and OSError."""
    context, lease, progress = session.context, session.lease, session.progress
    if refused := next(owner_rules.problems(context.spec, context.settings), ""):
        raise Stop(Reason.SPEC_REFUSED, f"{context.box} may not run it (changed since the claim?): {refused}")
    # A first claim has no earlier run. To look at all processes of the machine takes as long as all the rest of this.
    if context.epoch > 1 and (undead := process_tree.kill_all(context.job_id, context.epoch)):
        raise Stop(Reason.STOPPED_BY_BOX, f"process {undead[0]} of an earlier run of it can't be killed")
    if inherit.inherit_checkpoints(context.directory, context.record.continues, may_write=lease.is_valid):
        session.usage.rebase()
    if context.directory.checkpoints.is_dir():
        progress.update(phase="verifying the checkpoint")
    start = find_checkpoint(session, foreign=partial(_foreign, context))
    rank_count.check(context, start.checkpoint)
    if context.record.checkpoint and not start.checkpoint:
        log.warning("%s", messages.beginning(context.record, None, box=context.box))
    progress.resume_from(start.checkpoint)
    session.checkpoint_requests.on_resume(start.checkpoint)
    return _bring_kernels(session, _download(session, start))


def _bring_kernels(session: RunSession, prepared: Prepared) -> Prepared:
    """Bring another box's compiled kernels where this box's owner allows it; without them the trainer compiles."""
    context, settings = session.context, session.context.settings
    place = sharing.place_of(context.spec, settings)
    if not place:
        return prepared
    request, dataset = context.request, local_root(prepared.context.spec.train, settings)
    try:
        compiled_for = facts.gather(context.spec, python=request.python, gpus=context.record.gpus, dataset=dataset)
    except facts.Unknown as error:
        log.warning("compiled kernels are not shared: %s", error)
        return prepared
    kernels = CompiledKernels(context, session.progress, place=place, compiled_for=compiled_for)
    kernels.bring()
    return replace(prepared, kernels=kernels, cache_env={**prepared.cache_env, **kernels.environment()})


def _foreign(context: RunContext, saved: Saved) -> str:
    """Return why a checkpoint on this disk is not that which the record names; "" if it is, or the record names none.

    One that this box's own ledger names is the job's too: the server may not have heard of it.
    """
    named = context.record.checkpoint
    if named is None or named.step != saved.step or saved.manifest in {named.manifest, *context.own_manifests}:
        return ""
    return f"is not the one that the job's record names (its manifest is {saved.manifest[:12]}…)"


def find_checkpoint(session: RunSession, foreign: Callable[[Saved], str] = lambda _: "") -> Restored:
    """Return the newest good checkpoint, of this box or restored from its copy; `foreign`: see `local_store.newest`."""
    context, replicator = session.context, session.replicator
    late = context.epoch if session.same_host_boot else None
    own = context.directory.checkpoints
    here = local_store.newest(
        own, late=late, may_write=session.lease.is_valid, foreign=foreign, sign=context.sign_manifest
    )
    restorer = Restorer(
        target=replicator.target,
        settings=context.settings,
        directory=context.directory,
        progress=session.progress,
        over=replicator.closed,
        signers=signers.wanted(context.trust, context.settings, box=context.box, jobs=context.lineage),
    )
    restored = restorer.newest(context.record, here)
    replicator.resume(restored.checkpoint, restored.copied)
    session.progress.update(verified=local_store.manifests(own))
    return restored


def _download(session: RunSession, start: Restored) -> Prepared:
    """Download dataset, base and tokenizer at the commits of the first claim. Raises Stop.

    Meanwhile WandB is asked whether it would take the run now.
    """
    context, progress = session.context, session.progress
    settings, pins = context.settings, context.record.pins
    spec = starting.with_start(session, resuming=start.checkpoint is not None)
    wandb = WandbCheck(spec, settings)
    # A resume downloads no base model, and its pin must not be forgotten.
    resuming, lerobot = start.checkpoint is not None, context.request.lerobot
    wanted = requirements.wanted(spec, resuming=resuming, lerobot=lerobot)
    before = cached.sizes_bytes(wanted, settings, pins)
    fetched = _fetch(wanted, session)
    commits = {**pins, **fetched.commits}
    spec = requirements.at_home(spec, wanted, hf_home=settings.hf_home, pins=commits) if wanted else spec
    _prepare_weights(spec, session, start)
    spec = wandb.decide(spec)
    session.usage.add_download(cached.fetched_mib(wanted, before, settings, commits))
    progress.update(uncompared={**context.record.uncompared, **fetched.uncompared})
    progress.update(pins=commits, phase="", disk_now_mib=session.usage.taken_mib())
    cache_env = requirements.offline_env(spec, hf_home=settings.hf_home)
    return Prepared(context=replace(context, spec=spec), cache_env=cache_env, start=start)


def _fetch(wanted: Sequence[requirements.Fetch], session: RunSession) -> Pins:
    """Download into the cache; return the commits. Raises Stop."""
    context = session.context

    def show(phase: fetch.Phase) -> None:
        session.progress.update(phase=str(phase))

    pins = Pins(context.record.pins, context.record.uncompared)
    if not wanted:
        return Pins({})
    try:
        return fetch.prepare(wanted, context.settings, pins=pins, on_phase=show)
    except HubError as error:
        raise Stop(error.reason, error.detail, error.asked_seconds) from None


def _prepare_weights(spec: Spec, session: RunSession, start: Restored) -> None:
    """Bring the weights that torchvision would fetch at the trainer's start. Raises Stop."""
    context, saved = session.context, start.checkpoint
    checkpoint = Path(saved.path) if saved else None
    name = torch_weights.wanted(spec, context.request.lerobot, checkpoint=checkpoint)
    if name is None or not context.settings.torch_weights:
        return
    try:
        torch_weights.prepare(name, context.settings, lambda phase: session.progress.update(phase=phase))
    except HubError as error:
        raise Stop(error.reason, error.detail, error.asked_seconds) from None


#: Seconds after the question in which an answer counts; the preparation takes longer anyway.
PATIENCE_SECONDS = 10.0


class WandbCheck:
    """Asks at once whether WandB can be used: its `init` without a network would delay the training, or end it."""

    def __init__(self, spec: Spec, settings: Settings) -> None:
        self._state, self._asked = "away", time.monotonic()
        self._thread: threading.Thread | None = None
        if "wandb" in requirements.talks_to(spec):
            self._thread = threading.Thread(target=self._ask, args=(settings,), name="wandb?", daemon=True)
            self._thread.start()

    def _ask(self, settings: Settings) -> None:
        self._state = wandb_key.wandb(settings, os.environ, user_home=Path.home()).state

    def decide(self, spec: Spec) -> Spec:
        """Return the same job, its WandB run offline where WandB would not take it now."""
        if self._thread is None:
            return spec
        self._thread.join(max(0.0, self._asked + PATIENCE_SECONDS - time.monotonic()))
        if self._state == "ok":
            return spec
        log.warning("WandB: %s; its run is kept on this box and synced when that is fixed", WANDB[self._state])
        return requirements.without_wandb(spec)
