"""Switch this box off when nothing needs it: look, say so, wait, look again, call the command (workers/idle).

All of it happens in the agent's thread, which also claims: between the last look and the command no job is claimed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.queue.idle_outlook import STATUS_FILE, Outlook
from pi0q.queue.idle_policy import LOGINS, Phase, minutes
from pi0q.workers.agent.claim_loop import ClaimLoop
from pi0q.workers.agent.context import BoxContext
from pi0q.workers.agent.heartbeat import Registration
from pi0q.workers.host import files
from pi0q.workers.host.probe import Host
from pi0q.workers.idle import command, logins, remains, waiting
from pi0q.workers.idle.command import CannotSwitchOff
from pi0q.workers.idle.decision import Idle, OpenTask, Seen, Verdict, judge, reasons
from pi0q.workers.runs.run_directory import live_runs

logger = logging.getLogger(__name__)

#: `pi0q up` writes it where the queue's server runs, and removes it.
SERVER_FILE = "up.json"
#: MiB of a card that a driver holds for itself, at the most: more is somebody's.
DRIVERS_MIB = 2048
#: Seconds after which nobody knows what was between two looks, at the least.
GAP = 60.0
#: Seconds that a machine has to go down once its command has come back.
GOING_DOWN = 300.0
#: A job that starts at a time within so many milliseconds is waited for.
SOON_MS = 3600 * 1000
UNREACHABLE = "the queue does not answer"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What of the world the watch asks and does; tests put stand-ins here."""

    clock: Callable[[], float] = time.monotonic
    people: Callable[[], Sequence[str]] = logins.read
    choose: Callable[[Sequence[str]], list[str]] = command.of_this_machine
    switch_off: Callable[[Sequence[str], Path], None] = command.run
    #: Seconds, see GOING_DOWN.
    going_down: float = GOING_DOWN


@dataclass
class Told:
    """What was said last."""

    outlook: Outlook | None = None
    #: Of the status file, so that a beat without news writes nothing.
    file: dict[str, Any] = field(default_factory=dict)
    failed: str = ""


class IdleWatch:
    """Watches whether this box is needed. Without `idle_after` in the settings it does nothing at all."""

    def __init__(
        self,
        context: BoxContext,
        registration: Registration,
        claims: ClaimLoop,
        announce: Callable[[str], None],
        surroundings: Surroundings | None = None,
    ) -> None:
        """`announce` sends a heartbeat now, with this status or, for "", with what follows."""
        self.context, self.registration, self.claims, self.announce = context, registration, claims, announce
        self.world = surroundings or Surroundings()
        self.policy = context.settings.idle
        self.gap = max(GAP, 6 * context.settings.timing.beat)
        self.told = Told()
        #: Tells whether the box fetches what waiting jobs read.
        self.fetches: Callable[[], bool] = lambda: False
        self._idle = Idle()
        self._next_look = 0.0

    def look(self) -> None:
        """Look once, at most once a beat, and do what follows. Raises redis.RedisError."""
        if self.policy.after is None or self.world.clock() < self._next_look:
            return
        self._next_look = self.world.clock() + 0.8 * self.context.settings.timing.beat
        verdict = self._judge(self._reasons())
        if verdict.phase is Phase.OFF:
            self._switch_off()
        elif self._tell(verdict):
            self.announce("")

    def hurry(self) -> None:
        """Look at the next occasion: somebody may have asked the box to stay on."""
        self._next_look = 0.0

    def unreachable(self) -> None:
        """Note that the queue does not answer: being cut off looks like having nothing to do."""
        if self.policy.after is not None:
            self._tell(self._judge([UNREACHABLE]))

    def forget_unless_off(self) -> None:
        """Say nothing of it in the last heartbeat of a worker that stops for another reason."""
        if self.told.outlook is None or self.told.outlook.phase is not Phase.OFF:
            self.context.idle = ""

    # -- looking -------------------------------------------------------------------------------------

    def _judge(self, why: Sequence[str]) -> Verdict:
        self._idle, verdict = judge(self._idle, why, self.world.clock(), self.policy, gap=self.gap)
        return verdict

    def _reasons(self) -> list[str]:
        """Return what keeps the box on; what costs more to find out only where nothing else does."""
        quick = Seen(
            unclear=self._unclear(),
            has_server=(self.context.settings.home / SERVER_FILE).exists(),
            kept_seconds=self.context.store.kept_on_seconds(self.context.name),
            jobs=self._jobs(),
            fetches=self.fetches(),
        )
        return reasons(quick, self.policy) or reasons(self._closer(self.context.measure()), self.policy)

    def _unclear(self) -> str:
        if self.registration.behind or self.registration.claim_holdoff_seconds > 0:
            return "the queue's server came back a moment ago"
        return "it has not looked at every waiting job yet" if self.claims.unfinished else ""

    def _jobs(self) -> list[str]:
        owned = {job.id: job.name for job in self.context.store.owned(self.context.name)}
        return [*owned.values(), *(job for job in live_runs(self.context.settings.runs) if job not in owned)]

    def _closer(self, host: Host) -> Seen:
        runs, store = self.context.settings.runs, self.context.store
        tasks, newest = remains.open_tasks(runs), remains.newest_steps(runs)
        alone = remains.only_copies(newest, store.listed, self.context.name)
        names = {job.id: job.name for job in store.listed(sorted({*alone, *(task.job for task in tasks)}))}
        return Seen(
            waiting=self._waiting(host),
            tasks=[OpenTask(kind=one.kind, job=names.get(one.job, one.job), tried=one.tried) for one in tasks],
            only_copies=[names.get(job, job) for job in alone],
            people=() if LOGINS in self.policy.allow else self.world.people(),
            cards=[
                f"GPU {number} ({(gpu.total_mib - gpu.free_mib) / 1024:.1f} GiB)"
                for number, gpu in enumerate(host.gpus)
                if gpu.total_mib - gpu.free_mib > DRIVERS_MIB
            ],
        )

    def _waiting(self, host: Host) -> list[str]:
        """Return the waiting jobs that this box could run; a drained one runs none, and one without its cards.

        One whose cards can't be read is judged by those that it had, so that a driver which fails for a moment does
        not look like having nothing to do.
        """
        if self.registration.drain or self.context.without_cards(host):
            return []
        cards = [(gpu.name, gpu.total_mib) for gpu in host.gpus]
        cards = cards or [(card["name"], card["total_mib"]) for card in self.context.cards.cards()]
        store = self.context.store
        jobs = [*store.waiting(), *store.starting_by(store.now_ms() + SOON_MS)]
        return [job.name for job in waiting.fitting(jobs, self.context.name, cards, self.claims.refusals)]

    # -- saying --------------------------------------------------------------------------------------

    def _tell(self, verdict: Verdict) -> bool:
        """Say how the box stands; return whether that is news to the queue, beyond seconds that pass."""
        before = self.told.outlook
        now = Outlook(
            phase=verdict.phase, seconds=round(verdict.seconds), why=tuple(verdict.why), failed=self.told.failed
        )
        self.told.outlook, self.context.idle = now, json.dumps(now.to_json(), ensure_ascii=False)
        self._write(now)
        if before is not None and (before.phase, before.why, before.failed) == (now.phase, now.why, now.failed):
            return False
        if before is None or before.phase is not now.phase:
            self._log(now)
        return True

    def _log(self, now: Outlook) -> None:
        if now.phase is Phase.COUNTING:
            logger.info("nothing needs this box: it switches itself off in %s", minutes(now.seconds))
        elif now.phase is Phase.LEAVING:
            text = "this box switches itself off in %s. To keep it on: pi0q box keep-on 2h"
            logger.warning(text, minutes(now.seconds))
        elif now.phase is Phase.NEEDED:
            logger.info("this box stays on: %s", "; ".join(now.why))

    def _write(self, now: Outlook) -> None:
        """Keep it for `pi0q box status`, which asks no server; its seconds count from the time of the file."""
        until = time.time() + now.seconds
        told = self.told.file
        same = told and {**told, "seconds": 0, "at": 0} == {**now.to_json(), "seconds": 0, "at": 0}
        if same and abs(told["at"] + told["seconds"] - until) < self.gap:
            return
        self.told.file = {**now.to_json(), "at": time.time()}
        # A full disk must not keep a box from its heartbeat.
        with contextlib.suppress(OSError):
            files.write_atomic(self.context.settings.home / STATUS_FILE, json.dumps(self.told.file))

    # -- switching off -------------------------------------------------------------------------------

    def _switch_off(self) -> None:
        """Leave the queue, look once more, call the command once; take part again where the machine stays on."""
        try:
            words = self.world.choose(self.context.settings.idle_do)
        except CannotSwitchOff as error:
            self._stay(str(error))
            return
        self._tell(Verdict(phase=Phase.OFF))
        self.announce("stopped")
        # A job that came until now found a box that is up, and counts on it.
        if why := self._reasons():
            self._tell(self._judge(why))
            self.announce("")
            return
        logger.warning("nothing needs this box: calling %s", words[0])
        try:
            self.world.switch_off(words, self.context.settings.home)
        except CannotSwitchOff as error:
            self._stay(str(error))
            return
        if not self.context.stopping.wait(self.world.going_down):
            self._stay(f"it was still on {minutes(self.world.going_down)} after {words[0]}")

    def _stay(self, why: str) -> None:
        logger.error("could not switch this box off: %s", why)
        self.told.failed, self._idle = why, Idle()
        self._tell(self._judge(()))
        self.announce("")
