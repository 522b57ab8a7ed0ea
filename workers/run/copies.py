"""The copies of one run: each verified checkpoint goes elsewhere beside the training, and comes back where it is lost.

    offer -> [a thread, a process: copying.py] -> the record's `copied`; `copy_detail` says what is behind, and why
    newest: of what is here and what is copied; last: a run that hands its job back waits for its last copy

At most one is behind: a newer checkpoint takes the place of the one that waits. A copy that fails costs the training
nothing; it is tried again after a minute, then two, and so on to thirty.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from pi0q.jobs import copies
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.run import child, clerk, saves
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.log import Log
from pi0q.workers.run.order import Order
from pi0q.workers.run.pins import Pins
from pi0q.workers.run.progress import Progress
from pi0q.workers.run.stop import Stop
from pi0q.workers.run.transfer import amount

#: Seconds between two looks at whether a copy may still be waited for.
LOOK_SECONDS = 0.5
#: Seconds that the thread has to end.
JOIN_SECONDS = 10.0


class Copies:
    """Of one run. Where the job wants none, nothing here does anything."""

    def __init__(
        self,
        order: Order,
        record: Record,
        spec: Spec,
        settings: Settings,
        *,
        directory: RunDirectory,
        lease: Lease,
        log: Log,
        progress: Progress,
        pins: Pins,
    ) -> None:
        """`pins`: the steps that its user keeps, here and there."""
        self.settings, self.directory, self.lease, self.log, self.progress = settings, directory, lease, log, progress
        self.pins = pins
        #: A directory or hf://owner/name; "" where no copies are made.
        self.place = copies.place_of(spec)
        self._order: dict[str, Any] = {
            "place": self.place,
            "job": order.job_id,
            "epoch": order.epoch,
            "lease": str(directory.lease),
            "keep": spec.checkpoints.keep,
        }
        #: The place, once a checkpoint was brought back from there.
        self.back = ""
        self._part = directory.path / "fetched"
        self._known = max((saved.step for saved in (record.checkpoint, record.copied) if saved), default=0)
        #: The newest copy that has verified.
        self.copied = record.copied if record.copied and copies.place_in(record.copied) == self.place else None
        # A job that continues another finds copies under that one's name.
        self._before = copies.job_in(self.copied) if self.copied else order.job_id
        self._first = order.epoch == 1 and self.copied is None
        self._failures, self._not_before = 0, 0.0
        #: The newest that was offered.
        self._newest: Saved | None = None
        self._wanted: Saved | None = None
        self._now: Saved | None = None
        self._changed = threading.Condition()
        self._over = threading.Event()
        #: Tells the copy that is made now to end: at the run's end, or to give way.
        self._enough = threading.Event()
        self._thread: threading.Thread | None = None
        if self.place:
            progress.update(copied=self.copied, copy_detail="")

    # -- beside the training --------------------------------------------------------------------------

    def offer(self, saved: Saved) -> None:
        """A checkpoint that was verified: copied when its turn comes, unless a newer one is offered before."""
        if not self.place:
            return
        self._newest = saved
        if not self.behind():
            return
        with self._changed:
            if self._over.is_set():
                return
            self._wanted = saved
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="copies", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if self._now:
            self._say(f"step {saved.step} waits for the copy of step {self._now.step}")

    def copying(self) -> Collection[int]:
        """The step that is copied at the moment: its files must stay."""
        now = self._now
        return (now.step,) if now else ()

    def give_way(self) -> None:
        """Breaks off the copy of a checkpoint that a newer one replaces: its room is needed, and that one is next."""
        with self._changed:
            old = self._now if self._wanted else None
            # The files of one that its user keeps stay either way.
            if old and old.step in self.pins.steps:
                return
            if old:
                self.log.say(
                    f"the copy of checkpoint {old.step} is broken off: its room is needed, and a newer one waits"
                )
                self._enough.set()
            while old and self._now is old:
                self._changed.wait(LOOK_SECONDS)

    def _run(self) -> None:
        while (saved := self._next()) is not None:
            failed, lasting = self._copy(saved)
            with self._changed:
                self._now = None
                if failed and not lasting:
                    self._failures += 1
                    self._not_before = time.monotonic() + copies.pause_seconds(self._failures)
                    self._wanted = self._wanted or saved
                else:
                    self._failures, self._not_before = 0, 0.0
                self._changed.notify_all()

    def _next(self) -> Saved | None:
        """The checkpoint whose turn it is; None at the end of the run."""
        with self._changed:
            while not self._over.is_set():
                pause = self._not_before - time.monotonic()
                if self._wanted and pause <= 0:
                    self._now, self._wanted = self._wanted, None
                    self._enough.clear()
                    return self._now
                self._changed.wait(pause if self._wanted else None)
        return None

    def _copy(self, saved: Saved) -> tuple[str, bool]:
        """Why it failed, "" if it did not, and whether another try of this very checkpoint would as well."""
        began, end = time.monotonic(), dict[str, Any]()
        self._say(f"step {saved.step} is being copied")
        order = {
            **self._order,
            "act": "copy",
            "checkpoint": saved.path,
            "spared": sorted(self.pins.steps),
            "xet": self._failures % 2 == 0,
        }
        try:
            for line in clerk.send(order, self.settings, over=self._enough):
                end = line
                if line.get("total"):
                    self.progress.beside("copying", f"copying step {saved.step}, {amount(line['done'], line['total'])}")
        except child.Broken as error:
            end = {"failed": str(error)}
        self.progress.beside("copying", "")
        if "copied" in end:
            self.copied = replace(saved, path=end["copied"])
            self.progress.update(copied=self.copied, copy_detail="")
            took = f"{copies.amount(saved.bytes)} in {time.monotonic() - began:.0f} s"
            gone = f"; removed its copies of {end['gone']}" if end["gone"] else ""
            self.log.say(f"checkpoint {saved.step} is copied to {end['copied']}, {took}{gone}")
            return "", False
        if self._enough.is_set() or "lost" in end:
            return "it was broken off", True
        why = str(end.get("failed") or "the process that copies ended without a word")
        again = (
            "" if end.get("damaged") else f"; tried again in {copies.pause_seconds(self._failures + 1) / 60:.0f} min"
        )
        self._say(f"step {saved.step} is not copied: {why}{again}")
        self.log.say(f"WARNING: checkpoint {saved.step} is not copied: {why}{again}; the training goes on")
        return why, bool(end.get("damaged"))

    def _say(self, detail: str) -> None:
        self.progress.update(copy_detail=detail)

    # -- at the end -----------------------------------------------------------------------------------

    def behind(self) -> Saved | None:
        """The newest checkpoint, where it is not copied yet."""
        newest, copied = self._newest, self.copied
        return None if newest is None or (copied and copied.manifest == newest.manifest) else newest

    def last(self, reason: Reason, *, until: Callable[[], bool]) -> None:
        """Of a run whose job another box may go on with: waits for the copy of the newest checkpoint.

        So long as the settings say, while the lease lasts, and `until` someone wants an end. A copy that failed
        is tried once more, at once.
        """
        if reason not in copies.HANDED_OVER:
            return
        give_up = time.monotonic() + self.settings.copy_seconds
        with self._changed:
            tried, self._not_before = self._failures, 0.0
            self._changed.notify_all()
            while (left := self._wanted or self._now) and self._failures <= tried:
                if until() or not self.lease.ours() or time.monotonic() >= give_up:
                    self.log.say(f"WARNING: the copy of checkpoint {left.step} did not come to its end in time")
                    break
                self._changed.wait(LOOK_SECONDS)
        if (behind := self.behind()) and "not copied" not in str(self.progress.fields.get("copy_detail")):
            self._say(f"step {behind.step} is not copied: there was no time to wait for it")

    def close(self) -> None:
        """Ends the thread and its process; what has arrived of a copy is kept."""
        self._over.set()
        with self._changed:
            self._enough.set()
            self._changed.notify_all()
        if self._thread:
            self._thread.join(JOIN_SECONDS)

    # -- at the beginning -----------------------------------------------------------------------------

    def newest(self, here: Saved | None) -> Saved | None:
        """The newest good checkpoint: that of this box, or one brought back from its copy.

        Raises Stop where a newer one is known to be copied and can't be had now, and NotOurs.
        """
        if not self.place or self._first or (here and here.step >= self._known):
            return self._going_on_from(here)
        found = self._fetch(here)
        return self._going_on_from(found or here)

    def _going_on_from(self, saved: Saved | None) -> Saved | None:
        # What a fetch that was killed left, 23 GB of it maybe.
        shutil.rmtree(self._part, ignore_errors=True)
        if saved and (self.copied is None or saved.step > self.copied.step):
            self.offer(saved)
        return saved

    def _fetch(self, here: Saved | None) -> Saved | None:
        """Brings the newest good copy back if it is newer than what is here."""
        began, end, part = time.monotonic(), dict[str, Any](), self._part
        into, newer_than = self.directory.checkpoints, here.step if here else -1
        self.progress.update(phase=f"looking for copies in {self.place}")
        order = {
            **self._order,
            "act": "fetch",
            "newer_than": newer_than,
            "before": self._before,
            "into": str(into),
            "part": str(part),
        }
        try:
            for line in clerk.send(order, self.settings, over=self._over):
                end = line
                self._show(line)
        except child.Broken as error:
            end = {"failed": str(error)}
        self.progress.update(phase="")
        if name := end.get("fetched"):
            saves.point_last_at(into / name)
            saved = saves.sealed(into / name)
            took = f"{copies.amount(saved.bytes)} in {time.monotonic() - began:.0f} s"
            self.log.say(f"checkpoint {saved.step} is brought back from its copy in {self.place}, {took}")
            self.copied = replace(saved, path=end["from"])
            self.progress.update(copied=self.copied, copy_detail="")
            self.back = self.place
            return saved
        if "lost" in end:
            raise saves.NotOurs
        if "failed" in end or not end:
            why = str(end.get("failed") or "the process that looks for them ended without a word")
            self.log.say(f"WARNING: the copies of its checkpoints could not be looked at: {why}")
            if self.copied and self.copied.step > newer_than:
                text = (
                    f"its checkpoint of step {self.copied.step} is copied to {self.place} and can't be had now: {why}"
                )
                raise Stop(Reason.NETWORK, text)
        elif self.copied and self.copied.step > newer_than:
            self.log.say(f"WARNING: there is no good copy of step {self.copied.step} in {self.place} any more")
            self.copied = None
            self.progress.update(copied=None)
        return None

    def _show(self, line: Mapping[str, Any]) -> None:
        if "bad" in line:
            self.log.say(
                f"WARNING: the copy of checkpoint {line['bad']} is damaged ({line['why']}); an older one is taken"
            )
        elif line.get("total"):
            self.progress.update(phase=f"bringing step {line['step']} back, {amount(line['done'], line['total'])}")
