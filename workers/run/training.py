"""One life of the trainer's process: its output, its events, its saves, its end."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pi0q.jobs.checkpoint import step_of
from pi0q.jobs.diagnosis import Diagnosis, with_stacks
from pi0q.jobs.record import Saved
from pi0q.workers.run import console, hang, process
from pi0q.workers.run.copies import Copies
from pi0q.workers.run.demand import Demand
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.hang import Watch
from pi0q.workers.run.journal import Journal
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.log import Log
from pi0q.workers.run.progress import Progress
from pi0q.workers.run.room import Act, Room
from pi0q.workers.run.sealing import Sealing
from pi0q.workers.run.witness import Witness, Words

READ_BYTES = 65536
#: Seconds that a trainer may take to save when it is told to stop: 22 GB took 29 s on a local SSD.
SAVE_SECONDS = 300.0
#: Between two looks at the clocks, at most.
LOOK_SECONDS = 1.0


class Training:
    """Starts the trainer at once; `wait` sees it through."""

    def __init__(
        self,
        *,
        argv: Sequence[str],
        env: Mapping[str, str],
        directory: RunDirectory,
        job_id: str,
        epoch: int,
        keep: int,
        mib_before: int,
        log: Log,
        progress: Progress,
        lease: Lease,
        watch: Watch,
        on: Callable[[str], None],
        stop_after_save: bool,
        demand: Demand | None = None,
        room: Room | None = None,
        copies: Copies | None = None,
    ) -> None:
        """`on` hears what is seen here first, `fenced`, `hung`, `disk` or `full`, and calls `stop`; `demand` what its
        user wishes; `copies` gets each checkpoint."""
        self.directory, self.job_id, self.epoch = directory, job_id, epoch
        self.log, self.progress, self.stop_after_save = log, progress, stop_after_save
        self.lease, self.watch, self.on, self.demand = lease, watch, on, demand
        self.room = room
        #: Processes of the run that SIGKILL did not end.
        self.undead: list[int] = []
        #: By the lease's clock: when a trainer that was told to stop is killed.
        self._deadline: float | None = None
        self._killed = False
        #: What the run directory held when it was claimed: that much was not promised.
        self.mib_before = mib_before
        progress.error, progress.causes = None, ()
        #: How long it had been silent when it was taken to hang, seconds; lines of its log until then.
        self._silent: float | None = None
        self._said_before = 0
        #: Whether the trainer tells its steps and saves itself; else they are read off its console.
        self.hooked, self._seen_last = True, self._last()
        self._console = console.Console(progress.steps)
        # Read-write, so that it has no end when a writer leaves.
        self._pipe = os.open(directory.pipe, os.O_RDWR | os.O_NONBLOCK)
        self._events = Journal(directory.events)
        self._rest = b""
        self._woken, self._wake = os.pipe()
        self._wish = ""
        self._open, self._open_lock = True, threading.Lock()
        self._sealing = Sealing(
            directory.checkpoints, epoch=epoch, keep=keep, lease=lease, log=log, sealed=self._sealed,
            show=lambda text: progress.beside("sealing", text), demand=demand, over=self._looked_at,
            copies=copies,
        )  # fmt: skip
        gpus = [uuid for uuid in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]
        self.witness = Witness(uuids=gpus, data=directory.path)
        self.trainer = process.spawn(argv, env=env, cwd=directory.path)
        self.pid = self.trainer.pid
        if demand:
            demand.begin(lambda: process.send(self.pid, signal.SIGUSR1))
        self._exit, self._exited = os.pipe()
        threading.Thread(target=self._await_exit, daemon=True).start()

    def stop(self, why: str) -> None:
        """From any thread: `cancel`, `lost` and `full` end it at once, anything else after a save."""
        with self._open_lock:
            if why == "rehearsed" and self._wish:
                return
            self._wish = why
            if self._open:
                os.write(self._wake, b".")

    def _await_exit(self) -> None:
        self.trainer.wait()
        os.close(self._exited)

    def wait(self) -> int:
        """Sees the trainer through to its end; its exit code, negative for a signal."""
        assert self.trainer.stdout is not None
        output = self.trainer.stdout.fileno()
        os.set_blocking(output, False)
        with selectors.DefaultSelector() as selector:
            for source in (output, self._pipe, self._woken, self._exit):
                selector.register(source, selectors.EVENT_READ)
            while not self.undead:
                ready = {key.fd for key, _ in selector.select(self._pause())}
                if output in ready and not self._take_output(output):
                    selector.unregister(output)
                if self._pipe in ready:
                    self._take_events()
                if self._woken in ready:
                    os.read(self._woken, READ_BYTES)
                    self._obey()
                if self._exit in ready:
                    break
                self._look_at_the_clocks()
        return self._close(output)

    def _obey(self) -> None:
        """Does what was wished last."""
        if self._killed:
            return
        if self._wish == "lost":
            # Not a word into the log: it may be its next owner's.
            self._kill()
        elif self._wish in ("cancel", "full"):
            self.undead = process.end(self.trainer, self.job_id, self.epoch)
        elif self._wish == "hung":
            # In this order: the stacks are printed before anything else runs in it.
            self._said_before = self.log.said
            for pid in process.that_catch(signal.SIGUSR2, [self.pid, *process.descendants(self.pid)]):
                process.send(pid, signal.SIGUSR2)
            process.send(self.pid, signal.SIGTERM)
            self._deadline = self.lease.clock() + process.POLITE_SECONDS
        else:
            process.send(self.pid, signal.SIGTERM)
            self._deadline = self.lease.clock() + SAVE_SECONDS

    def _pause(self) -> float:
        """Seconds to the next time that matters, a second at most."""
        if self._killed:
            return LOOK_SECONDS
        until = self.lease.fence_at if self._deadline is None else self._bound(self._deadline)
        return min(LOOK_SECONDS, max(0.0, until - self.lease.clock()))

    def _bound(self, deadline: float) -> float:
        return min(deadline, self.lease.last_call)

    def _look_at_the_clocks(self) -> None:
        now = self.lease.clock()
        self.witness.look()
        if self._killed:
            return
        if self.progress.saving:
            self.progress.growing(self.directory.checkpoints)
        if not self.lease.ours():
            self.on("fenced")
            self._kill("its lease is over")
        elif self._deadline is not None:
            if now >= self._bound(self._deadline):
                self._kill("it did not stop in time")
        elif self.lease.fenced():
            self.on("fenced")
        elif self.hooked and (silent := self.watch.look(time.monotonic())):
            self._silent = silent
            self.log.say(
                f"no step for {silent:.0f} s: the trainer hangs and is ended; this is where its threads stand:"
            )
            self.on("hung")
        else:
            self._look_at_the_room()

    def _look_at_the_room(self) -> None:
        """A disk that runs low: what may go goes, beside the training; else the run stops while it still can save."""
        act = self.room.look() if self.room else Act.NOTHING
        if self.room and act is Act.FREE:
            self._sealing.make_room(self.room.free)
        elif self.room and act is not Act.NOTHING and self.hooked:
            self.log.say(f"the data disk runs low: {self.room.why}; nothing more can go, so the training stops")
            self.on("disk" if act is Act.SAVE else "full")

    def _kill(self, why: str = "") -> None:
        if why:
            self.log.say(f"{why}: the trainer is killed")
        self._killed = True
        self.undead = process.kill_all(self.job_id, self.epoch)

    def found(self, code: int, *, train: Mapping[str, Any], lerobot: str) -> Diagnosis:
        """Why it ended, to be asked once it did; the stacks of one that hung are in a file by then."""
        hung = self._wish == "hung"
        words = Words(
            exit_code=code,
            progress=self.progress,
            log=self.log.recent(),
            heard="hung" if hung else "",
            silent_seconds=self._silent,
        )
        found = self.witness.judge(words, train=train, lerobot=lerobot)
        self.witness.close()
        if not hung:
            return found
        stacks = self.log.recent(self._said_before)
        path = hang.keep(stacks, self.directory.path / f"stacks-{self.epoch}.txt")
        return with_stacks(found, path=str(path) if path else "", where=hang.where(stacks))

    def _close(self, output: int) -> int:
        # Data loaders that the trainer left behind would keep the GPU and the pipe.
        self.undead = self.undead or process.kill_all(self.job_id, self.epoch)
        code = -signal.SIGKILL if self.undead else self.trainer.wait()
        while self._take_output(output):
            pass
        self._take_events()
        if not self.hooked:
            self._take_last()
        self._sealing.close()
        with self._open_lock:
            self._open = False
            for handle in (self._pipe, self._woken, self._wake, self._exit):
                os.close(handle)
        self._events.close()
        assert self.trainer.stdout is not None
        self.trainer.stdout.close()
        return code

    def _take_output(self, output: int) -> bool:
        """False when nothing more will come."""
        try:
            chunk = os.read(output, READ_BYTES)
        except BlockingIOError:
            return False
        now = time.time()
        if not self.hooked and (bar := self._console.bar(chunk, now)):
            self._take(bar)
        for line in self.log.write(chunk):
            if console.compiling(line):
                self._take({"event": "compiling", "t": now})
            if not self.hooked and (event := self._console.line(line, now)):
                self._take(event)
                self._take_last()
        return bool(chunk)

    def _last(self) -> str:
        link = self.directory.checkpoints / "last"
        return link.readlink().name if link.is_symlink() else ""

    def _take_last(self) -> None:
        """Without a hook a save is known to be over when LeRobot's `last` points to it."""
        name = self._last()
        if name != self._seen_last and (step := step_of(name)) is not None:
            self._seen_last = name
            self._take(
                {"event": "saved", "t": time.time(), "step": step, "path": str(self.directory.checkpoints / name)}
            )

    def _take_events(self) -> None:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, READ_BYTES):
                data += chunk
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            # An exception's message may quote an address with a password in it.
            line = self.log.hide(raw.decode(errors="replace"))
            self._events.add(line.encode())
            with contextlib.suppress(ValueError):
                self._take(json.loads(line))

    def _take(self, event: Mapping[str, Any]) -> None:
        self.progress.event(event)
        self.watch.event(event, time.monotonic())
        if self.demand:
            self.demand.event(event)
        if self.room:
            self.room.event(event)
        if event.get("event") == "start" and not event.get("hooked", True):
            self.hooked = False
            self.log.say("this LeRobot can't be hooked: progress comes from its log, and it saves only when it would")
        if event.get("event") == "saved":
            self._sealing.add(int(event["step"]), Path(str(event["path"])))

    def _looked_at(self, saved: Saved | None) -> None:
        if self.room:
            self.room.sealed(saved)

    def _sealed(self, saved: Saved) -> None:
        taken = self.directory.size_mib() - self.mib_before
        self.progress.update(checkpoint=saved, fruitless=0, disk_now_mib=taken, lerobot=self.progress.lerobot)
        if self.stop_after_save:
            self.stop("rehearsed")
