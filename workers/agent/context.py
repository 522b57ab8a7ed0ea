"""What the parts of a worker share: the box's settings, store and identity, and what changes while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pi0q.queue.refusals import WithoutCards
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.host import gpu_mode, probe
from pi0q.workers.host.card_memory import CardMemory
from pi0q.workers.host.gpu_mode import ModeReader
from pi0q.workers.host.identity import Identity
from pi0q.workers.trainer.interpreter import NoTrainer, TrainerPython


@dataclass(kw_only=True)
class BoxContext:
    """One box, as its heartbeat, its claim loop and its run watcher know it."""

    settings: Settings
    store: Store
    identity: Identity
    #: Jobs at a time.
    slots: int
    trainer: TrainerPython | NoTrainer
    #: Why the queue's server may lose jobs, so that none is claimed; "" if it may not.
    server_trouble: str = ""
    #: What a user wants of this box, as of the last heartbeat: "" nothing, `drain` or `now` no new jobs.
    drain: str = ""
    modes: ModeReader = field(init=False)
    #: The cards that the box had when it had some.
    cards: CardMemory = field(init=False)
    #: What the box says of switching itself off, JSON (queue/idle_outlook.py); "" where it never does.
    idle: str = ""
    #: Called with job and claim number of each claim. A worker starts the runner by it at once; the job's message,
    #: which Celery brings some milliseconds later, finds it started.
    on_claim: Callable[[str, int], None] = lambda job_id, epoch: None
    #: Set when a run ended or a user asked for its post-run tasks: they may be due.
    postrun_due: threading.Event = field(default_factory=threading.Event)
    #: Set once the worker is to stop.
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.modes = ModeReader(simulated=self.settings.fake_gpus is not None)
        self.cards = CardMemory(self.settings.home)

    @property
    def name(self) -> str:
        """The box's name."""
        return self.identity.name

    def measure(self) -> probe.Host:
        """Measure what the box has free now."""
        return probe.measure(self.settings, box=self.name)

    def without_cards(self, host: probe.Host) -> WithoutCards | None:
        """Return that the box claims nothing since it has no card now; None where it has, or is a machine without."""
        return gpu_mode.without_cards(self.modes.mode(len(host.gpus)), self.settings.staging)
