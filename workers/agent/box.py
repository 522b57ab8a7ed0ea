"""A box: this machine as the queue sees it, and the parts that announce it, claim jobs and watch their runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent.claim_loop import ClaimLoop
from pi0q.workers.agent.context import BoxContext
from pi0q.workers.agent.heartbeat import Heartbeat, Registration
from pi0q.workers.agent.idle_watch import IdleWatch
from pi0q.workers.agent.launcher import Launcher
from pi0q.workers.agent.orphans import Orphans
from pi0q.workers.agent.recovery import Recovery
from pi0q.workers.agent.run_watcher import RunWatcher
from pi0q.workers.host import identity
from pi0q.workers.staging.stager import Stager, Surroundings
from pi0q.workers.trainer import interpreter


class Box:
    """One box: heartbeat, claim loop and run watcher over one context."""

    def __init__(
        self, settings: Settings, store: Store, *, slots: int, foreign_children: Mapping[int, int] | None = None
    ) -> None:
        """`foreign_children`: children of this process that pi0q did not start, pid -> start time."""
        who = identity.read(settings)
        trainer = interpreter.find(settings)
        self.context = BoxContext(settings=settings, store=store, identity=who, slots=slots, trainer=trainer)
        self.launcher = Launcher()
        self.orphans = Orphans(self.launcher, foreign_children or {})
        self.recovery = Recovery(settings, store, who, end_orphans=self.orphans.end)
        self.registration = Registration(settings, store, who)
        self.runs = RunWatcher(self.context, self.launcher, self.recovery)
        self.claims = ClaimLoop(self.context, self.recovery, self.runs.start_failures)
        self.stager = Stager(
            self.claims.admission,
            self.claims.disk_needs,
            Surroundings(
                measure=self.context.measure,
                trainer=lambda: self.context.trainer,
                cards=self.context.cards.cards,
                stopping=self.context.stopping,
            ),
        )
        self.heartbeat = Heartbeat(self.context, self.registration, self.claims, self.runs)
        self.heartbeat.staging = lambda: self.stager.state
        self.idle = IdleWatch(self.context, self.registration, self.claims, lambda status: self.announce(status=status))
        self.idle.fetches = lambda: self.stager.busy
        self._announcing = threading.Lock()

    @property
    def name(self) -> str:
        """The box's name."""
        return self.context.name

    def announce(self, *, status: str = "") -> None:
        """Send a heartbeat; once the worker stops, only its last one (`status`). Raises NameTaken."""
        with self._announcing:
            if status or not self.context.stopping.is_set():
                if status:
                    self.idle.forget_unless_off()
                self.heartbeat.announce(status=status)

    def recover(self, *, at_start: bool) -> None:
        """Settle what deaths left behind; before any claim where this worker or its server has just started."""
        requeued = list[str]()
        if self.registration.behind:
            requeued += self.recovery.replay()
            self.registration.caught_up()
        requeued += self.runs.reconcile(at_start=at_start)
        if at_start:
            self.claims.resume(requeued)
        self.orphans.end()
