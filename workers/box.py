"""A box: takes jobs that it has room for and sees each of them through."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import psutil

from pi0q.jobs.errors import NotFound
from pi0q.jobs.outcome import OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State
from pi0q.queue.connection import eviction
from pi0q.queue.settings import Settings
from pi0q.queue.store import Claimed, Store
from pi0q.workers import claims, clutter, identity, interpreter, probe
from pi0q.workers.care import Care
from pi0q.workers.gate import Gate
from pi0q.workers.launcher import CannotStart, Launcher
from pi0q.workers.orphans import Orphans
from pi0q.workers.presence import Presence
from pi0q.workers.recover import Recovery
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.order import Order
from pi0q.workers.shelf import Item
from pi0q.workers.stock import Stock

logger = logging.getLogger("pi0q")

#: Seconds between two looks at whether the worker is told to stop while a run goes on.
STOP_CHECK_SECONDS = 1.0
#: Seconds of the longest pause of a box whose runners do not start.
LONGEST_PAUSE = 60.0
#: What a claim answers while none can be had, and what is told of each waiting job.
NO_CLAIMS = {
    "drained": "the box is drained: `pi0q drain BOX --undo` lets it take jobs again",
    "regrouping": "the queue's server came back a moment ago: boxes that hold jobs say so first",
}


class Stopping(Exception):
    """The worker stops; the run goes on under its runner."""


class Box:
    """This machine, as the queue sees it."""

    def __init__(
        self, settings: Settings, store: Store, *, slots: int, strangers: Mapping[int, int] | None = None
    ) -> None:
        """`strangers`: children of this process that are none of pi0q's, pid -> start time."""
        self.settings, self.store, self.slots = settings, store, slots
        self.identity = identity.read(settings)
        self.name = self.identity.name
        self.launcher = Launcher()
        self.orphans = Orphans(self.launcher, strangers or {})
        self.presence = Presence(settings, store, self.identity)
        self.recovery = Recovery(settings, store, self.identity, end_orphans=self.orphans.end)
        self.settle = self.recovery.settle
        self.gate = Gate(settings, store, self.identity)
        self.care = Care(settings, store, box=self.name, spec=self.gate.spec)
        self.stock = Stock(settings, self.name)
        self.trainer = interpreter.find(settings)
        self.stopping = threading.Event()
        #: Claims, each a job and its epoch, that a thread of this worker sees through.
        self.attended: set[tuple[str, int]] = set()
        self._attending = threading.Lock()
        self._announcing = threading.Lock()
        #: Why waiting jobs are not taken here: job -> shortfalls.
        self.refusals: dict[str, str] = {}
        #: Why no job at all is taken, where the server is to blame.
        self.trouble = ""
        #: Jobs that a restart interrupted here: they come before all others, for a while.
        self.returning: set[str] = set()
        self._returned_by = 0.0
        #: Runners in a row that ended before they took their job in hand, and until when claims pause for it.
        self._stumbles, self._pause_until = 0, 0.0

    # -- saying who we are --------------------------------------------------------------------------

    def announce(self, *, status: str = "") -> None:
        """Says that this box lives and what it has; once it stops, nothing but its last word. Raises NameTaken."""
        with self._announcing:
            if status or not self.stopping.is_set():
                self._announce(status)

    def _announce(self, status: str) -> None:
        host, owned = self.measure(), self.store.owned(self.name)
        self.trouble = eviction(self.store.client) or ""
        lacking = self.trainer.why if isinstance(self.trainer, interpreter.NoTrainer) else host.gpu_fault
        fields = {
            "status": status or self._status(len(owned)),
            "boot": self.identity.boot,
            "version": version("pi0q"),
            "gpus": json.dumps([vars(gpu) for gpu in host.gpus]),
            "disk_free_mib": host.data.free_mib,
            "home": str(self.settings.home),
            "hf_home": str(self.settings.hf_home),
            "slots": self.slots,
            "running": len(owned),
            "lerobot": "" if isinstance(self.trainer, interpreter.NoTrainer) else self.trainer.lerobot,
            "note": " · ".join(part for part in (self.trouble.replace("\n", " "), self._stumbling(), lacking) if part),
            "refusals": json.dumps(self.refusals),
            "plans": json.dumps(self.stock.shown),
        }
        before = self.presence.drain
        self.presence.announce(fields)
        if self.presence.drain != before and not status:
            # What it says of itself follows from what it has just been told.
            self.presence.announce({"status": self._status(len(owned))})
        if self.presence.drain == "now":
            self.hand_back(owned)

    def _status(self, owned: int) -> str:
        if not self.presence.drain:
            return "ready"
        return "draining" if owned else "drained"

    def hand_back(self, owned: Iterable[Record]) -> None:
        """Asks the runners of these jobs to save, stop and put them back into the queue; asked twice it is once."""
        for record in owned:
            with contextlib.suppress(NotFound):
                self.store.stop(record.id, text=f"{self.name} is drained: saves it and hands it back")

    def measure(self) -> probe.Host:
        return probe.measure(self.settings, box=self.name)

    # -- taking jobs --------------------------------------------------------------------------------

    def claim(self) -> None:
        """Takes waiting jobs while there are free slots and one that fits; the next in the queue first."""
        while not self.stopping.is_set():
            owned = self.store.owned(self.name)
            waiting = self.store.waiting()
            if why := self.trouble.partition("\n")[0] or self._stumbling():
                self.refuse(waiting, why)
                return
            if len(owned) >= self.slots:
                self.gate.look_ahead(waiting)
                return
            if not waiting or not self._claim_first(self._in_turn(waiting), owned):
                return

    def refuse(self, waiting: Iterable[Record], why: str) -> None:
        """Takes none of these jobs, and says why."""
        self.refusals = {job.id: why for job in waiting}

    def _in_turn(self, waiting: list[Record]) -> list[Record]:
        """In the queue's order, but those that a restart interrupted here come first, and for a while alone."""
        self.returning &= {job.id for job in waiting}
        own = [job for job in waiting if job.id in self.returning]
        if own and time.monotonic() < self._returned_by:
            return own
        return own + [job for job in waiting if job.id not in self.returning]

    def _claim_first(self, waiting: list[Record], owned: list[Record]) -> bool:
        """Claims the first job that fits; whether it is worth looking again."""
        host, now = self.measure(), self.store.now_ms()
        promises = self.store.promises(claims.resources(host))
        self.refusals = {}
        self.stock.shown = {}
        for job in waiting:
            want = self.stock.want(job, self.gate.spec(job), host)
            judged = partial(
                claims.judge,
                job,
                host,
                promises,
                owned,
                box=self.name,
                disk_mib=want.disk_mib,
                hub_mib=want.hub_mib,
                waited_seconds=(now - (job.queued_ms or now)) / 1000,
                wait_for_box=self.settings.wait_for_box,
                system_reserve_mib=self.settings.system_disk_reserve_mib,
                problems=self.gate.problems(job, self.trainer, host, now_ms=now),
                system_cure=clutter.offer() if host.system.free_mib < self.settings.system_disk_reserve_mib else "",
            )
            verdict, spare = judged(), tuple[Item, ...]()
            if isinstance(verdict, claims.Misfit) and verdict.disk_lacks_mib:
                spare = self.care.spare(job, waiting, owned)
                verdict = judged(spare=spare)
            if isinstance(verdict, claims.Misfit):
                self.refusals[job.id] = "; ".join(verdict.shortfalls)
                self.gate.look_ahead([job])
                continue
            if held := self.gate.held(job):
                self.refusals[job.id] = held
                continue
            answer = self.store.claim(
                job.id,
                box=self.name,
                boot=self.identity.boot,
                lease_seconds=self.settings.lease_seconds,
                promises=verdict.promises,
                gpus=[gpu.uuid for gpu in verdict.gpus],
                text=_measured(verdict, host),
                at_least=self.recovery.least_epoch(job.id),
            )
            if isinstance(answer, Claimed):
                logger.info("claimed %s %s under epoch %d", job.id, job.name, answer.epoch)
                self.care.make_room(job, answer.epoch, verdict.going, spare)
            elif answer in NO_CLAIMS:
                self.refuse(waiting, NO_CLAIMS[answer])
                # Those that come first are not to lose their turn by it.
                self._returned_by = time.monotonic() + self.settings.timing.stalled
                return False
            if answer != "gone":
                return True
        return False

    # -- seeing jobs through ------------------------------------------------------------------------

    def attend(self, job_id: str) -> Record | None:
        """Starts the job's runner, or finds the one that lives, and waits for its end.

        Returns the record as it is then; None if the job is not this box's or is attended already.
        Raises Stopping when the worker is told to stop.
        """
        try:
            record = self.store.get(job_id)
        except NotFound:
            # The message of a job that an older copy of the data does not know.
            return None
        # A job that ended may be claimed anew before the thread that saw it end is through.
        claim = (job_id, record.epoch)
        with self._attending:
            if claim in self.attended or record.box != self.name or record.state not in OWNED:
                return None
            self.attended.add(claim)
        try:
            self._wait(self._runner(record))
            # After a crash two may have been started: the end of one that came too late says nothing of the other.
            self._wait(self._live(record))
            self._note_start(*claim)
            return self.settle(job_id, record.epoch, Reason.RUNNER_LOST, "its runner died")
        except CannotStart as error:
            self._note_start(*claim)
            return self.settle(job_id, record.epoch, Reason.RUNNER_LOST, str(error))
        finally:
            self.attended.discard(claim)

    def _note_start(self, job_id: str, epoch: int) -> None:
        """A runner that ended before it took its job in hand says something of this box, nothing of the job."""
        record = self.store.get(job_id)
        if (record.state, record.epoch) != (State.CLAIMED, epoch):
            self._stumbles = 0
            return
        self._stumbles += 1
        pause = min(LONGEST_PAUSE, self.settings.timing.retry * 2.0 ** min(self._stumbles - 1, 16))
        self._pause_until = time.monotonic() + pause
        logger.error("a runner ended before it took %s in hand; no claims for %.0f s", job_id, pause)

    def _stumbling(self) -> str:
        """Why no job is claimed for a while."""
        return "runners do not start on this box: see its worker's log" if time.monotonic() < self._pause_until else ""

    def _live(self, record: Record) -> psutil.Process | None:
        if pid := RunDirectory(self.settings.runs / record.id).live_runner(record.epoch):
            logger.info("found the live runner %d of %s", pid, record.id)
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(pid)
        return None

    def _runner(self, record: Record) -> subprocess.Popen[str] | psutil.Process | None:
        if live := self._live(record):
            return live
        if record.state is not State.CLAIMED or isinstance(self.trainer, interpreter.NoTrainer):
            return None
        order = Order(
            job_id=record.id,
            epoch=record.epoch,
            python=self.trainer.python,
            lerobot=self.trainer.lerobot,
            box=self.name,
            boot=self.identity.boot,
        )
        return self.launcher.launch(order)

    def _wait(self, runner: subprocess.Popen[str] | psutil.Process | None) -> None:
        while runner is not None:
            try:
                runner.wait(STOP_CHECK_SECONDS)
                return
            except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
                if self.stopping.is_set():
                    raise Stopping from None

    def recover(self, *, at_start: bool) -> None:
        """Puts right what deaths left behind; before any job is claimed where this worker or its server is new."""
        back = set[str]()
        if self.presence.behind:
            back.update(self.recovery.replay())
            self.presence.caught_up()
        back.update(self.recovery.tend(self.attended, at_start=at_start))
        if at_start:
            waiting = self.store.waiting()
            self.care.catch_up(self.measure().data, waiting, self.store.owned(self.name))
            back.update(job.id for job in waiting if self._interrupted_here(job))
            self.returning = back
            self._returned_by = time.monotonic() + self.settings.timing.stalled
        self.orphans.end()

    def _interrupted_here(self, job: Record) -> bool:
        return job.box == self.name and job.reason is not None and OUTCOMES[job.reason].next is Next.GO_ON

    def info(self) -> dict[str, Any]:
        """What Flower shows on the worker's page."""
        host = self.measure()
        shown = {
            f"gpu{index}": f"{gpu.name} | VRAM free {gpu.free_mib / 1024:.1f}/{gpu.total_mib / 1024:.1f} GiB"
            + (" | simulated" if gpu.simulated else "")
            for index, gpu in enumerate(host.gpus)
        }
        shown["gpus"] = str(len(host.gpus)) + (f" ({host.gpu_fault})" if host.gpu_fault else "")
        shown["data disk"] = f"{host.data.path} | {host.data.free_mib / 1024:.1f} GiB free"
        shown["system disk"] = f"{host.system.free_mib / 1024:.1f} GiB free"
        if self.presence.drain:
            shown["drain"] = NO_CLAIMS["drained"]
        shown["slots"] = f"{len(self.attended)} of {self.slots} in use"
        lacking = isinstance(self.trainer, interpreter.NoTrainer)
        shown["LeRobot"] = self.trainer.why if lacking else f"{self.trainer.lerobot} in {self.trainer.python}"  # type: ignore[union-attr]
        return {"pi0q": shown}


def _measured(fit: claims.Fit, host: probe.Host) -> str:
    gpus = ", ".join(
        f"{gpu.name} with {gpu.free_mib / 1024:.1f} of {gpu.total_mib / 1024:.1f} GiB free"
        + " (simulated)" * gpu.simulated
        for gpu in fit.gpus
    )
    disk = fit.lack or f"disk {host.data.free_mib / 1024:.1f} GiB free"
    return f"measured {gpus or 'no GPU needed'}; {disk}"
