"""What keeps jobs from this box besides room: their spec, its trainer, and what their preflight finds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import redis

from pi0q.jobs import command, flags
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers import datasets, preflight
from pi0q.workers.identity import Identity
from pi0q.workers.interpreter import NoTrainer, Trainer
from pi0q.workers.places import Places
from pi0q.workers.preflight import Preflight
from pi0q.workers.probe import Host, nvml_gpus
from pi0q.workers.soundness import Soundness

#: Specs kept in memory.
REMEMBERED = 1000


class Gate:
    """Of one box."""

    def __init__(self, settings: Settings, store: Store, identity: Identity) -> None:
        self.settings, self.store, self.box = settings, store, identity.name
        self.preflight = Preflight(settings=settings, store=store, box=identity.name)
        self.soundness = Soundness(settings, identity.boot, cards=self._cards, done=self._wake)
        self.places = Places(settings.runs)
        self._specs: dict[str, Spec | str] = {}

    def begin(self, trainer: Trainer | NoTrainer) -> None:
        """Looks at the trainer's environment where that was not done since the boot."""
        if isinstance(trainer, Trainer):
            self.soundness.begin(trainer)

    def problems(self, job: Record, trainer: Trainer | NoTrainer, host: Host, *, now_ms: int) -> list[str]:
        """Why this box could not run the job even if it had room."""
        if isinstance(trainer, NoTrainer):
            return [f"trainer: {trainer.why}"]
        spec = self.spec(job)
        if isinstance(spec, str):
            return [spec]
        found = [f"LeRobot {trainer.lerobot} here: {text}" for text in flags.problems(spec.train, trainer.lerobot)]
        if job.checkpoint and (other := command.misfit(job.lerobot, trainer.lerobot)):
            found.append(other)
        if lack := datasets.problem(spec.train, self.settings):
            return [*found, lack]
        return [
            *found,
            *self.soundness.troubles(
                spec,
                facts=datasets.facts(spec.train, self.settings) or preflight.facts_of(job),
                simulated=all(gpu.simulated for gpu in host.gpus),
                online=self.preflight.online(job, spec),
                clock=time.time() - now_ms / 1000,
                waits=not self.preflight.trained_here(job),
            ),
            *self.places.problems(job, spec),
        ]

    def held(self, job: Record) -> str:
        """Why a job that fits may not be claimed yet; "" if it may."""
        spec = self.spec(job)
        return spec if isinstance(spec, str) else self.preflight.refusal(job, spec)

    def look_ahead(self, waiting: Iterable[Record]) -> None:
        """Asks for jobs that wait for room: a mistake is told today, not when their turn comes."""
        for job in waiting:
            if isinstance(spec := self.spec(job), Spec):
                self.preflight.refusal(job, spec, ahead=True)

    def spec(self, job: Record) -> Spec | str:
        """The job's spec, or why there is none."""
        if job.id not in self._specs:
            if len(self._specs) > REMEMBERED:
                self._specs.clear()
            try:
                self._specs[job.id] = Spec.from_json(job.spec)
            except (Pi0qError, KeyError, TypeError, ValueError) as error:
                # Someone wrote it past `submit`: nothing of it may reach a command line.
                self._specs[job.id] = f"its spec is not valid: {error}"
        return self._specs[job.id]

    def _cards(self) -> bool:
        return self.settings.fake_gpus is None and bool(nvml_gpus()[0])

    def _wake(self) -> None:
        """The agent looks at once, and says what was found."""
        with contextlib.suppress(redis.RedisError):
            self.store.client.publish(self.store.prefix + "wake", "")
