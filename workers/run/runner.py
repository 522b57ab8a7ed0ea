"""The runner: one process that owns one run and outlives the Celery worker that started it.

    order -> start -> prepare -> command -> train -> finish

It waits, ready and imported, for its order on standard input, so that a claim becomes a trainer in
milliseconds. If it dies, its trainer dies with it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from pi0q.jobs import command, transition
from pi0q.jobs.outcome import OUTCOMES, Next, Reason, classify
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.queue import settings as all_settings
from pi0q.queue.connection import connect
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.datasets import local_root
from pi0q.workers.run import cache, environment, fetches, process, saves
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.log import Log
from pi0q.workers.run.order import Order
from pi0q.workers.run.progress import Progress
from pi0q.workers.run.report import Reporter
from pi0q.workers.run.training import Training

HOOK = Path(__file__).with_name("trainer.py")
#: Seconds between two tries to tell the queue how a run ended.
FINISH_RETRY_SECONDS = 5.0


class Stop(Exception):
    """The run ends here for a reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


class Lost(Exception):
    """The job is no longer ours; nothing may be written any more."""


class Runner:
    """One run of one job under one epoch."""

    def __init__(self, order: Order, settings: Settings, store: Store) -> None:
        self.order, self.settings, self.store = order, settings, store
        self.directory = RunDirectory(settings.runs / order.job_id)
        self.record: Record = store.get(order.job_id)
        self.spec = Spec.from_json(self.record.spec)
        self.log: Log
        self.progress = Progress(self.record.steps, vram_peak_mib=self.record.vram_peak_mib)
        self.reporter: Reporter
        self.training: Training | None = None
        #: The checkpoint that the trainer goes on from.
        self.resume: Saved | None = None
        self.cache_env: Mapping[str, str] = {}
        self.mib_before = 0
        #: What the history will say of the trainer's start, until the queue was told.
        self.unsaid = ""
        #: cancel, lost or fenced, once it was heard.
        self.heard = ""
        self._ending = threading.Lock()

    def run(self) -> None:
        """The whole run. Whatever happens, the job ends in exactly one way, or someone else owns it."""
        try:
            self.start()
        except Lost:
            return
        try:
            self.prepare()
            reason, detail = Reason.FINISHED, self.train()
        except Stop as stop:
            reason, detail = stop.reason, stop.detail
        except Lost:
            process.kill_all(self.order.job_id, self.order.epoch)
            return
        except Exception as error:
            traceback.print_exc()
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = Reason.DISK_FULL if full else Reason.RUNNER_LOST
            detail = f"the runner failed with {type(error).__name__}: {error}"
        self.finish(reason, detail)

    def start(self) -> None:
        """Takes the job in hand; raises Lost if it is not ours to run (a message that came twice)."""
        attempt = self.record.attempt + 1
        taken = transition.preparing(self.order.epoch, attempt=attempt, run_dir=str(self.directory.path))
        if self.store.move(self.order.job_id, taken) is None:
            raise Lost
        self.directory.make()
        if predecessor := self.directory.other_runner(self.order.epoch):
            process.send(predecessor, signal.SIGKILL)
        self.directory.sign(self.order.job_id, self.order.epoch)
        self.mib_before = self.directory.size_mib()
        self.log = Log(self.directory.log, os.environ)
        self.log.say(f"attempt {attempt}, epoch {self.order.epoch} on {self.record.box}")
        process.kill_all(self.order.job_id, self.order.epoch)
        self.reporter = Reporter(
            self.store,
            self.order.job_id,
            self.order.epoch,
            lease_seconds=self.settings.lease_seconds,
            fence=self.settings.fence,
            collect=self.news,
            on=self.on,
        )
        self.reporter.start()

    def prepare(self) -> None:
        """Finds the newest good checkpoint and fetches what the trainer will need."""
        if self.directory.checkpoints.is_dir():
            self.progress.update(phase="verifying the checkpoint")
        self.resume = saves.newest(self.directory.checkpoints, self.log.say)
        if self.record.checkpoint and not self.resume:
            self.log.say("no checkpoint on this box verifies: the training starts from step 0")
        self.progress.update(checkpoint=self.resume)
        self.fetch()

    def fetch(self) -> None:
        """Dataset, base and tokenizer into the cache, at the commits of the first claim."""
        hf_home = self.settings.hf_home
        wanted = fetches.wanted(self.spec, resuming=self.resume is not None)
        if wanted:
            try:
                pins = cache.prepare(
                    wanted,
                    hf_home=hf_home,
                    pins=self.record.pins,
                    say=self.say_fetching,
                )
            except cache.Refused as refused:
                raise Stop(refused.reason, refused.detail) from None
            # A resume fetches no base, and its pin must not be forgotten.
            self.progress.update(pins={**self.record.pins, **pins}, phase="")
            self.spec = fetches.at_home(self.spec, wanted, hf_home=hf_home, pins=pins)
        self.cache_env = fetches.offline_env(self.spec, hf_home=hf_home)

    def say_fetching(self, text: str) -> None:
        """Where the download is goes into the phase; all else a person should find again."""
        self.progress.update(phase=text)
        if not text.startswith("downloading"):
            self.log.say(text)

    def train(self) -> str:
        """Runs the trainer to its end, in words; a rehearsal is stopped once behind its first save, to resume."""
        rehearse_resume = self.spec.rehearsal and self.resume is None
        while True:
            started = self.resume
            code = self.train_once(stop_after_save=rehearse_resume and started is None)
            if self.heard:
                self.answer()
            reason = classify(code, *(self.progress.error or (None, "")))
            if reason is Reason.STOPPED_BY_BOX and rehearse_resume and started is None:
                self.log.say("rehearsal: saved and stopped as planned; now the resume")
                self.resume = saves.newest(self.directory.checkpoints, self.log.say)
                continue
            if reason is not Reason.FINISHED:
                raise Stop(reason, self.words(reason, code))
            unproven = " before its first save was sealed: the resume is not proven" * (rehearse_resume and not started)
            return f"reached step {self.progress.fields.get('step')}{unproven}"

    def train_once(self, *, stop_after_save: bool) -> int:
        """One life of the trainer's process; its exit code."""
        if not self.resume:
            self.directory.set_output_aside()
        built = self.command()
        marks = {
            process.MARK: self.order.job_id,
            process.MARK_EPOCH: str(self.order.epoch),
            "PI0Q_EVENTS": str(self.directory.pipe),
            "PI0Q_PARENT": str(os.getpid()),
            "PI0Q_SAVE_EVERY_S": str(self.spec.checkpoints.every_seconds or ""),
        }
        env = environment.build(
            os.environ,
            self.settings,
            gpus=self.record.gpus,
            command={**built.env, **self.cache_env},
            marks=marks,
        )
        environment.make_directories(env)
        self.progress.update(phase="starting the trainer")
        self.training = Training(
            argv=[self.order.python, str(HOOK), *built.argv[1:]],
            env=env,
            directory=self.directory,
            job_id=self.order.job_id,
            epoch=self.order.epoch,
            keep=self.spec.checkpoints.keep,
            mib_before=self.mib_before,
            log=self.log,
            progress=self.progress,
            stop_after_save=stop_after_save,
        )
        self.running()
        if self.heard:
            self.training.stop(self.heard)
        return self.training.wait()

    def command(self) -> command.Command:
        """The trainer's argv: fresh, or from the newest good checkpoint."""
        root = local_root(self.spec.train, self.settings)
        shared: dict[str, Any] = {
            "lerobot": self.order.lerobot,
            "output_dir": str(self.directory.output),
            "run_id": str(self.record.wandb_run_id),
            "dataset_root": str(root) if root else None,
        }
        if self.resume:
            return command.resumed(self.spec, checkpoint=self.resume.path, **shared)
        return command.fresh(self.spec, **shared)

    def running(self) -> None:
        """Tells the queue that the trainer lives."""
        assert self.training is not None
        how = f"resumed from step {self.resume.step}" if self.resume else "from step 0"
        text = f"trainer {self.training.pid}, LeRobot {self.order.lerobot}, {how}"
        self.log.say(text)
        self.unsaid = text
        self.say_unsaid()

    def say_unsaid(self) -> None:
        """Moves the job to running, at once or when the queue is back; said twice it does nothing."""
        if not self.unsaid:
            return
        first = self.record.started_ms is None
        with contextlib.suppress(redis.RedisError):
            started_ms = self.store.now_ms() if first else None
            self.store.move(
                self.order.job_id, transition.running(self.order.epoch, text=self.unsaid, started_ms=started_ms)
            )
            self.unsaid = ""

    def news(self) -> tuple[dict[str, Any], str]:
        """What the reporter has to tell."""
        self.say_unsaid()
        return self.progress.take(), self.log.take()

    # -- what comes from outside ------------------------------------------------------------------

    def on(self, what: str) -> None:
        """The reporter's thread heard `cancel`, `lost` or `fenced`."""
        with self._ending:
            if self.heard:
                return
            self.heard = what
        if self.training is not None:
            self.training.stop(what)
            return
        # Still preparing: nothing but this process to end. Downloads go on from where they are next time.
        with contextlib.suppress(Stop, Lost):
            try:
                self.answer()
            except Stop as stop:
                self.finish(stop.reason, stop.detail)
        os._exit(0)

    def answer(self) -> None:
        """What follows from what was heard."""
        if self.heard == "lost":
            raise Lost
        if self.heard == "cancel":
            raise Stop(Reason.CANCELLED_BY_USER, "cancelled by its user")
        raise Stop(Reason.STOPPED_BY_BOX, "the queue could not be reached for too long; saved and stopped")

    # -- the end ------------------------------------------------------------------------------------

    def words(self, reason: Reason, code: int) -> str:
        """What happened, in the trainer's own words where it had any."""
        if self.progress.error:
            kind, text = self.progress.error
            return f"{kind.rpartition('.')[2]}: {text.strip().splitlines()[0] if text.strip() else ''}"[:500]
        if code < 0:
            return f"the trainer was ended by {signal.Signals(-code).name}"
        return f"the trainer ended with exit code {code}"

    def finish(self, reason: Reason, detail: str) -> None:
        """One final transition; tried until the queue can be reached."""
        process.kill_all(self.order.job_id, self.order.epoch)
        if reason is Reason.DISK_FULL and (gone := saves.make_room(self.directory.checkpoints)):
            self.log.say(f"removed the unfinished save of step {', '.join(map(str, gone))}")
        self.log.say(f"{reason}: {detail}")
        self.log.close()
        self.reporter.stop()
        while True:
            try:
                self.reporter.report()
                record = self.store.get(self.order.job_id)
                if record.epoch != self.order.epoch:
                    return
                self.store.move(self.order.job_id, self.last_move(record, reason, detail))
                return
            except redis.RedisError:
                time.sleep(FINISH_RETRY_SECONDS)

    def last_move(self, record: Record, reason: Reason, detail: str) -> transition.Transition:
        if reason is Reason.CANCELLED_BY_USER:
            return transition.cancelled(self.order.epoch, text=detail)
        if record.wish == "cancel" and OUTCOMES[reason].next is not Next.DONE:
            return transition.cancelled(self.order.epoch, text=f"cancelled; {detail}")
        return transition.ended(record, self.order.epoch, reason, detail)


def main() -> None:
    """Waits for an order and carries it out; without one it ends with the worker that started it."""
    # A terminal's Ctrl-C and hang-up are not meant for a run. Handlers, since a trainer would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    settings = all_settings.load()
    # huggingface_hub reads where its caches and the token are when it is imported.
    os.environ.update(environment.caches(settings))
    store = Store(connect(settings), settings.prefix)
    with contextlib.suppress(redis.RedisError):
        store.now_ms()
    line = sys.stdin.readline()
    if not line.strip():
        return
    order = Order(**json.loads(line))
    runner = Runner(order, settings, store)
    runner.directory.path.mkdir(parents=True, exist_ok=True)
    with (runner.directory.path / "runner.log").open("a") as own:
        os.dup2(own.fileno(), 1)
        os.dup2(own.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    runner.run()


if __name__ == "__main__":
    main()
