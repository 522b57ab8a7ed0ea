"""The runner: one process that owns one run and outlives the Celery worker that started it.

    order -> start -> prepare -> command -> train -> finish

It waits, ready and imported, for its order on standard input, so that a claim becomes a trainer in
milliseconds. If it dies, its trainer dies with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import redis

from pi0q.jobs import transition
from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.queue.store import NotOwner, Store
from pi0q.workers.run import bequest, launch, process, rehearsal, saves, standby, takeover, words
from pi0q.workers.run.copies import Copies
from pi0q.workers.run.demand import Demand
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.farewell import End, Farewell
from pi0q.workers.run.hang import Watch
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.log import Log
from pi0q.workers.run.order import Order
from pi0q.workers.run.owner import Owner, take
from pi0q.workers.run.pins import Pins
from pi0q.workers.run.progress import Progress
from pi0q.workers.run.provide import provide
from pi0q.workers.run.report import Reporter
from pi0q.workers.run.room import Room
from pi0q.workers.run.stop import WEIGHT, Lost, Stop
from pi0q.workers.run.training import Training

#: Scripts of the store that a run needs, read before it begins: the package may be upgraded in place below it.
SCRIPTS = ("report", "move", "restore", "drain")


class Runner:
    """One run of one job under one epoch."""

    def __init__(self, order: Order, settings: Settings, store: Store) -> None:
        self.order, self.settings, self.store = order, settings, store
        self.directory = RunDirectory(settings.runs / order.job_id)
        self.record: Record = store.get(order.job_id)
        self._raw = store.raw(order.job_id)
        self.box = order.box or str(self.record.box)
        self.spec = Spec.from_json(self.record.spec)
        self.log: Log
        self.progress = Progress.of(self.record, self.spec)
        self.lease: Lease
        self.owner: Owner
        self.demand: Demand
        self.reporter: Reporter
        self.copies: Copies
        self.training: Training | None = None
        #: The checkpoint that the trainer goes on from.
        self.resume: Saved | None = None
        self.cache_env: Mapping[str, str] = {}
        self.room: Room
        #: Whether what an earlier runner wrote is on the disk or in the host's memory for certain.
        self.same_host_boot = False
        #: What the history will say of the trainer's start, until the queue was told.
        self.unsaid = ""
        #: What came from outside and weighed most: cancel, lost, fenced, stop or hung.
        self.heard = ""
        self._sigterm = threading.Event()
        self._hearing, self._ending, self._ended = threading.Lock(), threading.Lock(), False

    def run(self) -> None:
        """The whole run. Whatever happens, the job ends in exactly one way, or someone else owns it."""
        try:
            self.start()
        except Lost:
            return
        except OSError as error:
            self.cannot_begin(error)
            return
        try:
            self.prepare()
            self.rehearse()
            stop = Stop(Reason.FINISHED, self.train())
        except Stop as stopped:
            stop = stopped
        except Lost:
            process.kill_all(self.order.job_id, self.order.epoch)
            return
        except saves.NotOurs:
            stop = Stop(Reason.STOPPED_BY_BOX, "the lease was over before it could be renewed; nothing was changed")
        except Exception as error:
            traceback.print_exc()
            stop = Stop.by(error)
        self.copies.last(stop.reason, until=lambda: self.heard in ("cancel", "lost"))
        self.finish(stop)

    def start(self) -> None:
        """Takes the job in hand; raises Lost if it is not ours to run (a message that came twice)."""
        timing, epoch = self.settings.timing, self.order.epoch
        boot, run_dir = self.order.boot or self.record.boot, self.directory.path
        try:
            ledger, since = take(
                self.store, self.record, self._raw,
                epoch=epoch, box=self.box, boot=boot, lease=timing.lease, run_dir=run_dir,
            )  # fmt: skip
        except NotOwner:
            raise Lost from None
        self.directory.make()
        if predecessor := self.directory.other_runner(epoch):
            process.send(predecessor, signal.SIGKILL)
        self.same_host_boot = self.directory.same_host_boot()
        self.directory.sign(self.order.job_id, epoch)
        self.log = Log(self.directory.log, os.environ)
        self.log.say(f"attempt {self.record.attempt + 1}, epoch {epoch} on {self.box}")
        self.lease = Lease(self.directory.lease, seconds=timing.lease, fence=timing.fence, since=since)
        self.owner = Owner(self.store, ledger, self.directory.ledger, self.lease, say=self.log.say)
        self.owner.write()
        self.room = Room(self.settings, self.record, self.spec, self.directory, self.owner)
        pins = Pins(self.directory.checkpoints, self.record.kept_steps, self.log.say)
        self.demand = Demand(self.record, self.progress, pins, self.log.say)
        self.copies = Copies(self.order, self.record, self.spec, self.settings, directory=self.directory,
                             lease=self.lease, log=self.log, progress=self.progress, pins=pins)  # fmt: skip
        self.reporter = Reporter(
            self.owner, timing, collect=self.news, again=self.progress.again, on=self.on, hear=self.demand.hear
        )
        self.reporter.start()

    def cannot_begin(self, error: OSError) -> None:
        """Without its directory or its log it can keep nothing. What can't be told here the worker tells: it died."""
        traceback.print_exc()
        with contextlib.suppress(redis.RedisError, NotOwner):
            record, detail = self.store.get(self.order.job_id), Stop.by(error).detail
            last = transition.ended(record, self.order.epoch, Reason.RUNNER_LOST, detail)
            self.store.move(record.id, last, box=self.box)

    def prepare(self) -> None:
        """Finds the newest good checkpoint and fetches what the trainer will need."""
        if undead := process.kill_all(self.order.job_id, self.order.epoch):
            raise Stop(Reason.STOPPED_BY_BOX, f"process {undead[0]} of an earlier run of it can't be killed")
        if takeover.take_over(self.directory, self.record.continues, say=self.log.say, ours=self.lease.ours):
            self.room.mib_before = self.directory.size_mib()
        if self.directory.checkpoints.is_dir():
            self.progress.update(phase="verifying the checkpoint")
        self.resume = self.newest()
        if self.record.checkpoint and not self.resume:
            self.log.say(f"WARNING: {words.beginning(self.record, None, box=self.box)}")
        self.progress.goes_on(self.resume)
        self.demand.resumed(self.resume)
        self.fetch()

    def newest(self) -> Saved | None:
        """The newest good checkpoint, of this box or brought back from its copy."""
        late = self.order.epoch if self.same_host_boot else None
        here = saves.newest(self.directory.checkpoints, self.log.say, late=late, ours=self.lease.ours)
        return self.copies.newest(here)

    def fetch(self) -> None:
        """Dataset, base and tokenizer into the cache, at the commits of the first claim."""
        resuming = self.resume is not None
        self.room.before(resuming=resuming)
        got = provide(self.spec, self.record, self.settings, resuming=resuming, say=self.say_fetching)
        self.spec, self.cache_env = got.spec, got.env
        self.progress.update(pins=got.pins, phase="", disk_now_mib=self.room.fetched(got.pins))

    def say_fetching(self, text: str) -> None:
        """Where the download is goes into the phase; all else a person should find again."""
        self.progress.update(phase=text)
        if not text.startswith(("downloading", "rehearsing")):
            self.log.say(text)

    def rehearse(self) -> None:
        """The short run before a long one; one that fails ends the job before it costs a day."""
        rehearsal.clean(self.directory)
        if not rehearsal.wanted(self.record, self.spec, resume=self.resume):
            return
        self.progress.update(phase="rehearsing")
        result = rehearsal.Rehearsal(
            order=self.order, record=self.record, spec=self.spec, settings=self.settings, directory=self.directory,
            log=self.log, lease=self.lease, show=self.say_fetching, on=self.on, begin=self.begin,
        ).run()  # fmt: skip
        if self.heard or result is None:
            self.answer(None)
        self.progress.update(rehearsal=result.to_json(self.box), phase="")
        if result.reason:
            raise result.stop()

    def begin(self, spawn: Callable[[], Training]) -> Training | None:
        """Starts a trainer; None where someone outside wished an end before."""
        with self._hearing:
            self.training = None if self.heard else spawn()
            return self.training

    def train(self) -> str:
        """Runs the trainer to its end, in words; a rehearsal is stopped once behind its first save, to resume."""
        rehearse_resume = self.spec.rehearsal and self.resume is None
        while True:
            started = self.resume
            found = self.room.blame(self.train_once(stop_after_save=rehearse_resume and started is None))
            reason = found.reason
            if reason is Reason.STOPPED_BY_BOX and self.lease.fenced():
                # It stopped by itself, before anyone here looked at the clock.
                self.on("fenced")
            if self.heard and (reason is not Reason.FINISHED or self.heard == "lost"):
                self.answer(found)
            if reason is Reason.STOPPED_BY_BOX and rehearse_resume and started is None:
                self.log.say("rehearsal: saved and stopped as planned; now the resume")
                self.resume = self.newest()
                continue
            if reason is not Reason.FINISHED:
                raise Stop.of(found)
            unproven = " before its first save was sealed: the resume is not proven" * (rehearse_resume and not started)
            return f"reached step {self.progress.fields.get('step')}{unproven}"

    def train_once(self, *, stop_after_save: bool) -> Diagnosis:
        """One life of the trainer's process; why it ended."""
        if not self.lease.ours():
            raise saves.NotOurs
        self.room.resumes(self.resume)
        if not self.resume:
            self.directory.set_output_aside()
        argv, env = launch.trainer(
            self.order, self.record, self.spec, self.settings, self.directory, self.resume, self.cache_env
        )
        self.progress.update(phase="starting the trainer")
        training = self.begin(lambda: self.spawn(argv, env, stop_after_save))
        if training is None:
            self.answer(None)
        self.running()
        return training.found(training.wait(), train=self.spec.train, lerobot=self.order.lerobot)

    def spawn(self, argv: list[str], env: Mapping[str, str], stop_after_save: bool) -> Training:
        """Starts the trainer."""
        compiles = bool(self.spec.train.get("policy.compile_model")) and not self.spec.rehearsal
        return Training(
            argv=argv, env=env, directory=self.directory, job_id=self.order.job_id, epoch=self.order.epoch,
            keep=self.spec.checkpoints.keep, mib_before=self.room.mib_before, log=self.log, progress=self.progress,
            lease=self.lease, on=self.on, stop_after_save=stop_after_save, demand=self.demand,
            room=self.room, copies=self.copies,
            watch=Watch(self.settings.hang_seconds, compiles=compiles, now=time.monotonic()),
        )  # fmt: skip

    def running(self) -> None:
        """Tells the queue that the trainer lives."""
        assert self.training is not None
        how = words.beginning(self.record, self.resume, box=self.box, back=self.copies.back)
        self.unsaid = f"trainer {self.training.pid}, LeRobot {self.order.lerobot}, {how}"
        self.log.say(self.unsaid)
        with contextlib.suppress(redis.RedisError, NotOwner):
            self.say_unsaid()

    def say_unsaid(self) -> None:
        """Moves the job to running, at once or when the queue is back; said twice it does nothing."""
        if not self.unsaid:
            return
        started_ms = self.store.now_ms() if self.record.started_ms is None else None
        self.owner.move(transition.running(self.order.epoch, text=self.unsaid, started_ms=started_ms))
        self.unsaid = ""

    def news(self) -> tuple[dict[str, Any], str]:
        """What the reporter has to tell."""
        with contextlib.suppress(redis.RedisError, NotOwner):
            self.say_unsaid()
        return self.progress.take(), self.log.take()

    # -- what comes from outside ------------------------------------------------------------------

    def on(self, what: str) -> None:
        """Someone heard a wish, `lost`, `fenced` or `hung`; from any thread, and as often as it is heard."""
        with self._hearing:
            if WEIGHT.get(what, 0) <= WEIGHT[self.heard]:
                return
            self.heard, training = what, self.training
        if training is not None:
            training.stop(what)
        elif not self._ended:
            self.leave()

    def leave(self) -> None:
        """Ends a run that still prepares: downloads go on from where they are the next time."""
        if self.heard != "lost":
            self.finish(Stop(*words.because(self.heard, None)))
        os._exit(0)

    def on_sigterm(self) -> None:
        """Someone ends this box politely: save and hand back; a last word that can't be told is in the ledger."""
        self._sigterm.set()
        self.on("stop")

    def answer(self, found: Diagnosis | None) -> NoReturn:
        """What follows from what was heard; `found` is how its trainer ended, None before there is one."""
        if self.heard == "lost":
            raise Lost
        if self.heard == "hung" and found:
            raise Stop.of(found)
        raise Stop(*self.room.told(*words.because(self.heard, found.exit_code if found else None)))

    # -- the end ------------------------------------------------------------------------------------

    def finish(self, stop: Stop) -> None:
        """One final transition; written down first, then tried until the queue can be reached."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
            self.copies.close()
            known = bool(self.training and self.training.undead)
            undead = process.kill_all(self.order.job_id, self.order.epoch, patience=0.0 if known else None)
            if undead:
                self.log.say(f"process {undead[0]} can't be killed: {self.box} takes no new jobs until it is restarted")
            room = self.room.held(stop.reason, self.lease, self.progress.fields.get("checkpoint"))
            self.log.say(str(stop))
            self.progress.update(**room, **bequest.leave(self, stop.reason))
            self.log.close()
            self.reporter.stop()
            end = End(reason=stop.reason, detail=stop.detail, asked_seconds=stop.asked_seconds, found=stop.found)
            farewell = Farewell(owner=self.owner, reporter=self.reporter, end=end, undead=undead)
            farewell.write()
            while not farewell.tell() and not self._sigterm.wait(self.settings.timing.retry):
                pass


def main() -> None:
    """Waits for an order and carries it out; without one it ends with the worker that started it."""
    if (given := standby.await_order(SCRIPTS)) is None:
        return
    runner = Runner(*given)
    # In a thread: the main one may be in the middle of hearing something.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=runner.on_sigterm).start())
    standby.leave_the_worker(runner.directory)
    runner.run()


if __name__ == "__main__":
    main()
