"""Room on the data disk while a run goes on: seen in time, made where it may be, and else the run is stopped in time.

    look (each second) -> FREE -> free (in turn with the seals) -> look -> SAVE or STOP -> held

The last verified checkpoint is never touched. A run that stops for want of room is held: it uses up no attempt, and
the box takes it again once there is room for all that it needs (`Record.disk_plan`, stock.py).
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import redis

from pi0q.jobs import disk, model, transition
from pi0q.jobs.checkpoint import MANIFEST, step_of
from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.disk import MIB, SAVE_INODES, gib, with_margin
from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.outcome import OUTCOMES, Reason
from pi0q.jobs.record import Record, Saved
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import NotOwner
from pi0q.workers import leftovers, probe, shelf, stock
from pi0q.workers.probe import Disk
from pi0q.workers.run import fetches, saves
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.lease import Lease
from pi0q.workers.run.owner import Owner
from pi0q.workers.shelf import Busy, Item

#: Seconds between two looks.
LOOK_SECONDS = 1.0
#: Ends that hold a job until there is room.
HELD = frozenset({Reason.DISK_LOW, Reason.DISK_FULL})


class Act(Enum):
    """What the room on the disk asks for."""

    NOTHING = "nothing"
    #: Less than the next save and a margin: what may go goes.
    FREE = "free"
    #: Nothing more may go: a save still fits, so the run saves and stops.
    SAVE = "save"
    #: Nothing more may go and no save fits: the run stops as it is.
    STOP = "stop"


def judge(seen: Disk, *, save_mib: int, freed: bool) -> Act:
    """What to do about the disk as it is, where the next save takes this much. Pure."""
    inodes = seen.free_inodes if seen.free_inodes is not None else 2 * SAVE_INODES
    if seen.free_mib >= with_margin(save_mib) and inodes >= 2 * SAVE_INODES:
        return Act.NOTHING
    if not freed:
        return Act.FREE
    return Act.SAVE if seen.free_mib > save_mib + save_mib // 100 and inodes >= SAVE_INODES else Act.STOP


class Room:
    """The disk of one run, through all lives of its trainer."""

    def __init__(
        self,
        settings: Settings,
        record: Record,
        spec: Spec,
        directory: RunDirectory,
        owner: Owner,
        *,
        measure: Callable[[Path], Disk] = probe.disk,
    ) -> None:
        self.settings, self.record, self.spec, self.directory, self.owner = settings, record, spec, directory, owner
        self._measure = measure
        #: What the run directory held when it was claimed, less what was fetched since; that was not promised. MiB.
        self.mib_before = directory.size_mib()
        #: What was seen when it acted, in words.
        self.why = ""
        self._reckoned_mib = disk.plan(spec).checkpoint_mib
        #: A checkpoint of this job as it was measured, MiB; None before there is one.
        self._saved_mib: int | None = None
        self._began_at: int | None = None
        self._ready = False
        # Saves that are being written or vouched for: until then what is free says nothing of the next.
        self._busy = 0
        self._freeing, self._freed = False, False
        self._looked = -LOOK_SECONDS

    # -- what the run tells it ----------------------------------------------------------------------

    def resumes(self, saved: Saved | None) -> None:
        """A trainer begins: from this checkpoint, or from nothing."""
        self._began_at = saved.step if saved else None
        self._ready, self._busy = False, 0
        if saved:
            self._saved_mib = -(-saved.bytes // MIB)

    def event(self, event: Mapping[str, Any]) -> None:
        """One of the trainer's events."""
        kind, params = event.get("event"), event.get("params")
        if kind == "ready":
            self._ready = True
            if isinstance(params, int) and params > 0:
                # Weights and two moments, each as wide as it can be: no policy takes more.
                most = -(-12 * params // MIB) if model.width(self.spec) == 4 else -(-8 * params // MIB)
                self._reckoned_mib = min(self._reckoned_mib, most)
        elif kind == "saving":
            self._busy += 1

    def sealed(self, saved: Saved | None) -> None:
        """The oldest of the saves is vouched for, or can't be (None), and older ones are removed."""
        self._busy = max(0, self._busy - 1)
        self._looked = -LOOK_SECONDS
        if saved:
            self._saved_mib = -(-saved.bytes // MIB)

    @property
    def save_mib(self) -> int:
        """What the next save takes."""
        return self._saved_mib if self._saved_mib is not None else self._reckoned_mib

    # -- looking and acting -------------------------------------------------------------------------

    def look(self, now: float | None = None) -> Act:
        """What is to be done now; `now` by a monotonic clock."""
        now = time.monotonic() if now is None else now
        if self._busy or self._freeing or not self._ready or now - self._looked < LOOK_SECONDS:
            return Act.NOTHING
        self._looked = now
        with contextlib.suppress(OSError):
            seen = self._measure(self.settings.home)
            act = judge(seen, save_mib=self.save_mib, freed=self._freed)
            self._freeing, self._freed = act is Act.FREE, self._freed and act is not Act.NOTHING
            self.why = "" if act is Act.NOTHING else self._words(seen)
            return act
        return Act.NOTHING

    def _words(self, seen: Disk) -> str:
        inodes = "" if seen.free_inodes is None else f" and {seen.free_inodes} files"
        few = seen.free_inodes is not None and seen.free_inodes < 2 * SAVE_INODES
        takes = f"{SAVE_INODES} files" if few else gib(self.save_mib)
        return f"{gib(seen.free_mib)}{inodes * few} free on {seen.path}, the next save takes {takes}"

    def free(self, prune: Callable[[], Sequence[int]], lease: Lease) -> None:
        """Frees what may go until there is room, the least missed first; `prune` removes all but the newest save."""
        gone: list[str] = []
        try:
            for step in (self._of_run(lease), self._older(prune), self._caches(lease)):
                for what in step:
                    gone.append(what)
                    if self._enough():
                        return
        except (OSError, saves.NotOurs) as error:
            self.owner.say(f"could not make more room: {error}")
        finally:
            if gone:
                self._note(f"the data disk ran low ({self.why}): removed {', '.join(gone)}")
            self._freeing, self._freed = False, True
            self._looked = -LOOK_SECONDS

    def _enough(self) -> bool:
        return judge(self._measure(self.settings.home), save_mib=self.save_mib, freed=False) is Act.NOTHING

    def _of_run(self, lease: Lease) -> Iterator[str]:
        """What this run itself has no use for any more."""
        checkpoints, old = self.directory.checkpoints, self.directory.path / "output.old"
        newest = max((step_of(path.name) or 0 for path in stock.verified(self.directory)), default=0)
        useless = [old] if old.is_dir() and not any(old.glob(f"checkpoints/*/{MANIFEST}")) else []
        for path in sorted(checkpoints.glob("*")):
            step = step_of(path.name.removesuffix(".bad"))
            # One that is later than all may be in the making.
            unfinished = not (path / MANIFEST).exists() and step is not None and step < newest
            if step is not None and not path.is_symlink() and (path.name.endswith(".bad") or unfinished):
                useless.append(path)
        for path in useless:
            if not lease.ours():
                raise saves.NotOurs
            shutil.rmtree(path)
            yield f"{path.name}, which nothing goes on from"

    def _older(self, prune: Callable[[], Sequence[int]]) -> Iterator[str]:
        if steps := prune():
            yield f"checkpoint {', '.join(map(str, steps))} (a newer one is verified)"

    def _caches(self, lease: Lease) -> Iterator[str]:
        """Caches that no run uses and nobody keeps, the longest unused first; this job's own stay."""
        mine = {fetch.pin for fetch in fetches.wanted(self.spec, resuming=False)}
        for item in [*leftovers.items(self.settings), *shelf.everything(self.settings)]:
            if item.kept or not item.mib or shelf.key(item) in mine or not lease.ours():
                continue
            with contextlib.suppress(Busy, OSError, Pi0qError):
                self._remove(item)
                yield f"{item.what} ({gib(item.mib)})"

    def _remove(self, item: Item) -> None:
        if item.kind == "leftovers":
            leftovers.remove_useless(item, self.settings)
        else:
            shelf.remove(item, self.settings)

    def _note(self, text: str) -> None:
        self.owner.say(text)
        with contextlib.suppress(redis.RedisError, NotOwner):
            self.owner.move(transition.noted(State.RUNNING, self.owner.ledger.epoch, text=text))

    # -- the end --------------------------------------------------------------------------------------

    def blame(self, found: Diagnosis) -> Diagnosis:
        """The same, or a full disk: some libraries tell it in words of their own ("unexpected pos 576 vs 534")."""
        if found.reason is Reason.TRAINER_FAILED and self._busy:
            with contextlib.suppress(OSError):
                seen = self._measure(self.settings.home)
                if seen.free_mib < 1 or seen.free_inodes == 0:
                    return replace(found, reason=Reason.DISK_FULL, cure=OUTCOMES[Reason.DISK_FULL].cure)
        return found

    def told(self, reason: Reason, text: str) -> tuple[Reason, str]:
        """The end in words, with the numbers of this disk."""
        if reason not in HELD:
            return reason, text
        if self.why and (ended := text.partition("; ")[2]):
            return reason, f"the data disk ran low: {self.why}; {ended}"
        with contextlib.suppress(OSError):
            seen = self._measure(self.settings.home)
            return reason, f"{text} ({gib(seen.free_mib)} free on {seen.path})"
        return reason, text

    def held(self, reason: Reason, lease: Lease, saved: Saved | None) -> dict[str, Any]:
        """Cleans up behind a run that a disk ended; what the record is to say of the room it needs.

        `saved` is the newest verified checkpoint.
        """
        got_on = saved is not None and (self._began_at is None or saved.step > self._began_at)
        known: Mapping[str, Any] = self.record.disk_plan
        if reason not in HELD:
            return {"disk_plan": {}} if known and got_on else {}
        partial = self._clean(lease)
        # Of a save that was never finished nobody knows how large it would have been.
        best = self.save_mib if self._saved_mib is not None else max(self.save_mib, 2 * partial)
        least = with_margin(best)
        boxes = dict(known.get("free") or {})
        if not got_on:
            # What was asked for the last time was not enough, whatever filled the disk.
            least = max(least, 2 * int(boxes.get(self.owner.ledger.box) or 0))
        return {"disk_plan": {"checkpoint_mib": best, "free": {**boxes, self.owner.ledger.box: least}}}

    def _clean(self, lease: Lease) -> int:
        """Removes what was never finished; MiB of the largest of that."""
        if not lease.ours():
            return 0
        parts = [shelf.size_mib(path) for path in self.directory.checkpoints.glob("*") if not _counts(path)]
        try:
            gone = saves.make_room(self.directory.checkpoints)
        except OSError as error:
            self.owner.say(f"could not remove what was never finished: {error}")
            return max(parts, default=0)
        if gone:
            self.owner.say(f"removed the unfinished save of step {', '.join(map(str, gone))}")
        return max(parts, default=0)

    # -- the promise ------------------------------------------------------------------------------------

    def before(self, *, resuming: bool) -> None:
        """What it needs of the Hub is about to be fetched."""
        self._wanted = fetches.wanted(self.spec, resuming=resuming)
        self._laid = stock.laid(self._wanted, self.settings, self.record.pins)

    def fetched(self, pins: Mapping[str, str]) -> int:
        """What of the promise is taken now that they are here, MiB."""
        self.mib_before -= stock.fetched_mib(self._wanted, self._laid, self.settings, pins)
        return self.directory.size_mib() - self.mib_before


def _counts(path: Path) -> bool:
    named = step_of(path.name) is not None and not path.is_symlink()
    return not named or (path / MANIFEST).exists() or saves.was_finished(path)
