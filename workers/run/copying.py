"""The process that copies a checkpoint elsewhere, or brings one back: with the lowest priority, killed with its runner.

    {"act": "copy", "place": …, "job": …, "epoch": 3, "lease": …, "parent": …, "endpoint": …,
     "checkpoint": …, "keep": 2, "spared": []}                             on stdin
    {"act": "fetch", …, "newer_than": 10, "before": …, "into": …, "part": …}
    {"done": 3100000000, "total": 23100000000, "step": 20}                 on stdout, a line each, while bytes move
    {"bad": 20, "why": …}                                                  a copy that does not verify
    {"copied": …, "gone": [10]} | {"fetched": "000020", "from": …}  how it ended
    {"failed": …, "damaged": true} | {"lost": …}

The token is read as huggingface_hub reads it, and goes to the Hub itself only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs import copies
from pi0q.jobs.outcome import Reason
from pi0q.workers.run import copy_files
from pi0q.workers.run.copy_directory import Directory, NotThere
from pi0q.workers.run.copy_files import Damaged, Lost, Watched, WrongBytes
from pi0q.workers.run.lease import FILE, boottime
from pi0q.workers.run.refusals import refusal

if TYPE_CHECKING:
    from pi0q.workers.run.copy_hub import Repository

#: Seconds between two signs of life.
PULSE_SECONDS = 0.5
#: Seconds of computing since the last sign from which on something goes on, whether or not bytes are counted
#: meanwhile. On a busy machine it gets hardly more than that in a pulse.
BUSY_SECONDS = 0.01
NICEST = 19
_PDEATHSIG = 1
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Term:
    """Until when something may be written under the lease of our runner; for ever where the job has ended."""

    def __init__(self, path: str | None) -> None:
        self._shared: mmap.mmap | None = None
        if path:
            with Path(path).open("rb") as file:
                self._shared = mmap.mmap(file.fileno(), FILE.size, access=mmap.ACCESS_READ)

    def must(self) -> None:
        """Raises Lost."""
        if self._shared is not None and boottime() * 1e9 >= FILE.unpack(self._shared[:])[1]:
            raise Lost("the lease is over")


class Clerk:
    """One order."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.order, self.term = order, Term(order["lease"])
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._step: int | None = None
        self.watched = Watched(tick=self.tick, must=self.term.must, expect=self.expect)

    def tell(self, **line: object) -> None:
        with self._lock:
            print(json.dumps(line), file=self._out, flush=True)

    def tick(self, size: int) -> None:
        self._done += size
        self.term.must()

    def expect(self, total: int) -> None:
        self._done, self._total = 0, total

    def pulse(self) -> None:
        """Tells that something goes on, for as long as it does."""
        before, busy = -1, 0.0
        while True:
            # Of the other threads: what this one takes is no sign of life.
            done, now = self._done, time.process_time() - time.thread_time()
            if done != before or now - busy >= BUSY_SECONDS:
                self.tell(done=done, total=self._total, step=self._step)
                before, busy = done, now
            time.sleep(PULSE_SECONDS)

    def place(self, job: str = "") -> Directory | Repository:
        order, job = self.order, job or self.order["job"]
        if repo_id := copies.repository(order["place"]):
            from pi0q.workers.run.copy_hub import Repository

            return Repository(repo_id, job, endpoint=order["endpoint"], watched=self.watched)
        return Directory(order["place"], job, epoch=order["epoch"], watched=self.watched)

    def run(self) -> None:
        """Carries it out, or says why not."""
        threading.Thread(target=self.pulse, daemon=True).start()
        try:
            end = self.copy() if self.order["act"] == "copy" else self.fetch()
        except Lost as lost:
            end = {"lost": str(lost)}
        except Damaged as damaged:
            end = {"failed": f"the checkpoint here is damaged: {damaged}", "damaged": True}
        except Exception as error:
            if (why := told(error, self.order["place"], brings_back=self.order["act"] == "fetch")) is None:
                raise
            end = {"failed": why}
        self.tell(**end)

    def copy(self) -> dict[str, Any]:
        """A checkpoint of this box to the place; then the copies go that it replaces."""
        place, checkpoint = self.place(), Path(self.order["checkpoint"])
        manifest, text = copy_files.read_manifest(checkpoint)
        self._step = manifest.step
        path = place.put(checkpoint, manifest, text)
        gone = list[int]()
        # What is copied is copied, whatever becomes of the old ones.
        with contextlib.suppress(Exception):
            gone = place.prune(self.order["keep"], self.order["spared"])
        return {"copied": path, "gone": gone}

    def fetch(self) -> dict[str, Any]:
        """The newest good copy that is newer than what is here, into the run's directory."""
        into, part = Path(self.order["into"]), Path(self.order["part"])
        found = [
            (step, name, job, place)
            for job in dict.fromkeys([self.order["job"], self.order.get("before") or self.order["job"]])
            for place in [self.place(job)]
            for step, name in place.names().items()
            if step > self.order["newer_than"]
        ]
        for step, name, job, place in sorted(found, key=lambda one: -one[0]):
            self._step = step
            try:
                place.fetch(name, part / name)
            except Damaged as error:
                self.tell(bad=step, why=str(error))
                shutil.rmtree(part, ignore_errors=True)
                with contextlib.suppress(OSError):
                    place.set_aside(name)
                continue
            into.mkdir(parents=True, exist_ok=True)
            self.term.must()
            if (into / name).exists():
                # It was no good, or this one would not be newer.
                shutil.rmtree(into / name)
            (part / name).rename(into / name)
            copy_files.settle(into)
            shutil.rmtree(part, ignore_errors=True)
            return {"fetched": name, "from": copies.path_of(self.order["place"], job, name)}
        shutil.rmtree(part, ignore_errors=True)
        return {"fetched": ""}


def told(error: Exception, place: str, *, brings_back: bool) -> str | None:
    """An error in words; None for one that is pi0q's own fault. `brings_back`: what it writes to is this box's disk."""
    if isinstance(error, (NotThere, WrongBytes)):
        return str(error)
    if copies.repository(place):
        refused = refusal(error, f"the copies in {place}", copies.repository(place))
        if refused is not None:
            # What it says of a network is said of downloads.
            said = refused.why if refused.reason is Reason.NETWORK else refused.detail
            return said.replace(", then submit again", "").rstrip(".")
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return f"{'the data disk of this box' if brings_back else place} is full: make room there"
        return f"{place}: {error.strerror or type(error).__name__}"
    return None


def quiet() -> None:
    """Takes the CPU and the disk only when nobody else wants them."""
    os.nice(NICEST)
    with contextlib.suppress(Exception):
        import psutil

        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def main() -> None:
    """Carries out the order on standard input."""
    order = json.loads(sys.stdin.readline())
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        return
    if order["act"] == "copy":
        quiet()
    clerk = Clerk(order)
    # Whatever a library prints is no line of ours.
    os.dup2(2, 1)
    clerk.run()


if __name__ == "__main__":
    main()
