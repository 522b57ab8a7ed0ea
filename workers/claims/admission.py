"""Admission checks other than time and capacity: the job's spec, the trainer's environment, the preflight."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import redis

from pi0q.jobs import command, several_gpus, transition
from pi0q.jobs.dataset_checks.contents import DatasetContents
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.estimates import job_needs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.schema import flags
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import OWNED, State
from pi0q.queue.refusals import BadInput, Problem, Refusal
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.claims import preflight
from pi0q.workers.claims.bases import Bases
from pi0q.workers.claims.copy_target import CopyTargets
from pi0q.workers.claims.inputs import JobInputs
from pi0q.workers.claims.peaks import RememberedPeaks
from pi0q.workers.claims.preflight import Preflight
from pi0q.workers.claims.start_check import StartCheck
from pi0q.workers.claims.warm_boxes import WarmBoxes
from pi0q.workers.host.identity import Identity
from pi0q.workers.host.probe import Host, nvml_gpus
from pi0q.workers.runs.job_trust import JobTrust
from pi0q.workers.trainer import local_datasets, owner_rules
from pi0q.workers.trainer.health_check import CheckedJob, HealthCheck
from pi0q.workers.trainer.interpreter import NoTrainer, TrainerPython

logger = logging.getLogger(__name__)

#: Specs kept in memory.
MAX_REMEMBERED = 1000


class Admission:
    """The admission checks of one box."""

    def __init__(self, settings: Settings, store: Store, identity: Identity) -> None:
        self.settings, self.store = settings, store
        self.peaks, self.bases = RememberedPeaks(store), Bases(settings)
        self.preflight = Preflight(settings=settings, store=store, box=identity.name, peaks=self.peaks)
        self.health = HealthCheck(settings, identity.boot, has_gpus=self._has_gpus, on_done=self._wake)
        self.inputs = JobInputs(settings, store, identity.name, on_done=self._wake)
        self.preflight.local = self._local_contents
        self.copy_targets = CopyTargets(settings.runs, settings.copy_roots)
        self.warm_boxes = WarmBoxes(store)
        self.trust = JobTrust(settings.home, store.prefix)
        self.starts = StartCheck(
            settings=settings,
            store=store,
            copy_targets=self.copy_targets,
            signed_only=lambda: self.trust.demanded,
        )
        #: The spec of each job as it was judged, and what came of it.
        self._specs: dict[str, tuple[Mapping[str, Any], Spec | str]] = {}
        #: How often the health check brought something new.
        self.findings = 0

    def begin(self, trainer: TrainerPython | NoTrainer) -> None:
        """Start the health check of the trainer's environment unless it was made since the boot."""
        if isinstance(trainer, TrainerPython):
            self.preflight.trainer = trainer
            self.health.begin(trainer)

    def problems(
        self, job: Record, trainer: TrainerPython | NoTrainer, host: Host, *, now_ms: int
    ) -> tuple[Refusal, ...]:
        """Return why this box could not run the job even if it had room."""
        if (refused := self.trust.refusal(job)) is not None:
            return (refused,)
        if isinstance(trainer, NoTrainer):
            return (Problem(text=f"trainer: {trainer.why}"),)
        if other := flags.unsupported(trainer.lerobot):
            return (Problem(text=f"trainer: {other}"),)
        self.preflight.trainer = trainer
        spec = self.spec(job)
        if isinstance(spec, str):
            return (Problem(text=spec),)
        texts = list(_version_problems(job, spec, trainer))
        bad = self.inputs.refusals(job, spec, trainer)
        if not any(isinstance(one, BadInput) for one in bad):
            clock = time.time() - now_ms / 1000
            waits = not self.preflight.trained_here(job)
            texts += self.health.refusals(self._checked(job, spec, host), clock=clock, waits=waits)
            texts += self.copy_targets.problems(job, spec)
            texts += self.starts.problems(job, spec, trainer.lerobot)
            texts += owner_rules.problems(spec, self.settings)
        return (*(Problem(text=text) for text in texts), *bad)

    def fetch_problems(self, job: Record, trainer: TrainerPython | NoTrainer) -> list[str]:
        """Return why this box does not fetch what the job reads: it would not run it with cards either.

        What takes a card or imports LeRobot is left out: such a box has no card, and memory for neither.
        """
        if isinstance(trainer, NoTrainer):
            return [f"trainer: {trainer.why}"]
        if other := flags.unsupported(trainer.lerobot):
            return [f"trainer: {other}"]
        self.preflight.trainer = trainer
        spec = self.spec(job)
        if isinstance(spec, str):
            return [spec]
        return [*_version_problems(job, spec, trainer), *owner_rules.problems(spec, self.settings)]

    def vram_mib(self, job: Record) -> int:
        """Return the VRAM that the job needs on each GPU, MiB: by its dataset's own images once they are known."""
        spec, stated = self.spec(job), job.needs.get("vram_mib", 0)
        if isinstance(spec, str) or not stated:
            return stated
        facts = local_datasets.facts(spec.train, self.settings) or preflight.facts_of(job)
        if not facts or not facts.images:
            return stated
        peak, base = self.peaks.find(spec, facts.images), self.bases.of(job, spec)
        return job_needs.estimate(spec, images=facts.images, peak=peak, base=base).vram_mib

    def _checked(self, job: Record, spec: Spec, host: Host) -> CheckedJob:
        return CheckedJob(
            spec=spec,
            facts=local_datasets.facts(spec.train, self.settings) or preflight.facts_of(job),
            simulated=all(gpu.simulated for gpu in host.gpus),
            online=self.preflight.online(job, spec),
        )

    def preflight_refusal(self, job: Record) -> Refusal | None:
        """Return why a job that fits may not be claimed before its preflight passes; None if it may be claimed."""
        spec = self.spec(job)
        return Problem(text=spec) if isinstance(spec, str) else self.preflight.refusal(job, spec)

    def preflight_ahead(self, waiting: Iterable[Record]) -> None:
        """Start the preflights of jobs that wait for room, so that a user learns of a mistake before their turn."""
        for job in waiting:
            if isinstance(spec := self.spec(job), Spec):
                self.preflight.refusal(job, spec, ahead=True)

    def spec(self, job: Record) -> Spec | str:
        """Return the job's spec, or why it can't be used. A spec that changed since it was judged ends its job.

        Nothing of a waiting job whose file this box does not trust is looked at; what runs was judged by its runner.
        """
        if job.state not in OWNED and (refused := self.trust.refusal(job)) is not None:
            return str(refused)
        known = self._specs.get(job.id)
        if known and known[0] == job.spec:
            return known[1]
        if len(self._specs) > MAX_REMEMBERED:
            self._specs.clear()
        changed = known is not None and job.state is State.QUEUED
        spec = self._end_changed(job) if changed else _spec(job)
        self._specs[job.id] = (job.spec, spec)
        return spec

    def _end_changed(self, job: Record) -> str:
        """End a waiting job: nothing that pi0q does changes the spec of a job."""
        why = "its spec was changed after this box had judged it"
        logger.warning("%s %s: %s; it is ended", job.id, job.name, why)
        with contextlib.suppress(redis.RedisError):
            self.store.move(job.id, transition.refused(Reason.SPEC_REFUSED, f"{self.preflight.box}: {why}"))
        return why

    def _local_contents(self, spec: Spec) -> DatasetContents | None:
        """Return what was read of the job's dataset on this box, whose look has ended by now."""
        look = self.inputs.contents(spec, self.preflight.trainer) if self.preflight.trainer else None
        return look.result() if look else None

    def _has_gpus(self) -> bool:
        return self.settings.fake_gpus is None and bool(nvml_gpus()[0])

    def _wake(self) -> None:
        """Wake the agent: it announces what the health check found."""
        self.findings += 1
        with contextlib.suppress(redis.RedisError):
            self.store.wake(self.preflight.box, "")


def _spec(job: Record) -> Spec | str:
    try:
        return Spec.from_json(job.spec)
    except (Pi0qError, KeyError, TypeError, ValueError) as error:
        # Someone wrote it past `submit`: nothing of it may reach a command line.
        return f"its spec is not valid: {error}"


def _version_problems(job: Record, spec: Spec, trainer: TrainerPython) -> Iterator[str]:
    """Yield what this box's version of LeRobot can't do of the job."""
    for text in flags.problems(spec.train, trainer.lerobot):
        yield f"LeRobot {trainer.lerobot} here: {text}"
    if fault := several_gpus.version_fault(spec, trainer.lerobot):
        yield fault
    if job.checkpoint and (other := command.misfit(job.lerobot, trainer.lerobot)):
        yield other
