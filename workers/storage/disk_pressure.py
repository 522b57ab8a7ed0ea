"""Disk pressure while a run goes on: notice a low data disk, evict what may go, else stop the run while it can save.

    check (each second) -> FREE -> evict (in turn with the seals) -> check -> SAVE or STOP -> the run stops

The last verified checkpoint is never touched. A run that stops for want of disk space is held: it uses up no attempt,
and the box takes it again once there is space for all that it needs (`Record.disk_plan`, disk_needs.py).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.estimates import disk, policy_sizes
from pi0q.jobs.estimates.disk import MIB, SAVE_INODES, gib, with_margin
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import probe
from pi0q.workers.host.probe import Disk
from pi0q.workers.hub import requirements
from pi0q.workers.runs.lease import Lease, LeaseExpired
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.storage import inventory, run_garbage
from pi0q.workers.storage.inventory import Busy, Item

#: Seconds between two measurements.
LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Act(Enum):
    """What the free space on the disk asks for."""

    NOTHING = "nothing"
    #: Less than the next save and a margin: evict what may go.
    FREE = "free"
    #: Nothing more may go, and one save still fits: the run saves and stops.
    SAVE = "save"
    #: Nothing more may go, and no save fits: the run stops as it is.
    STOP = "stop"


def decide(seen: Disk, *, save_mib: int, evicted: bool) -> Act:
    """Return what to do about the disk as it is, where the next save takes this much. Pure."""
    inodes = seen.free_inodes if seen.free_inodes is not None else 2 * SAVE_INODES
    if seen.free_mib >= with_margin(save_mib) and inodes >= 2 * SAVE_INODES:
        return Act.NOTHING
    if not evicted:
        return Act.FREE
    return Act.SAVE if seen.free_mib > save_mib + save_mib // 100 and inodes >= SAVE_INODES else Act.STOP


class SaveSize(TrainerListener):
    """What the next checkpoint takes on the disk: estimated until one was measured."""

    def __init__(self, spec: Spec) -> None:
        self._estimated_mib = disk.plan(spec).checkpoint_mib
        # Weights and two moments, each as wide as it can be: no policy takes more.
        self._bytes_a_parameter = 12 if policy_sizes.width(spec) == 4 else 8
        #: The newest checkpoint's size; None before there is one.
        self.measured_mib: int | None = None

    @property
    def mib(self) -> int:
        return self._estimated_mib if self.measured_mib is None else self.measured_mib

    def measure(self, saved: Saved | None) -> None:
        """Take the size of a checkpoint that is there."""
        if saved:
            self.measured_mib = -(-saved.bytes // MIB)

    def on_event(self, event: Mapping[str, Any]) -> None:
        parameters = event.get("params")
        if event.get("event") == "ready" and isinstance(parameters, int) and parameters > 0:
            self._estimated_mib = min(self._estimated_mib, -(-self._bytes_a_parameter * parameters // MIB))

    def on_sealed(self, saved: Saved | None) -> None:
        self.measure(saved)


class RunCleaner:
    """Removes what a running job can do without, what is missed least first."""

    def __init__(self, context: RunContext, lease: Lease, *, keep_newest_only: Callable[[], Sequence[int]]) -> None:
        """`keep_newest_only` removes the checkpoints that a newer one replaces; returns their steps."""
        self.context, self.lease, self.keep_newest_only = context, lease, keep_newest_only

    def removals(self) -> Iterator[str]:
        """Remove one thing after the other; yield what it was. Raises LeaseExpired, and OSError."""
        yield from self._garbage()
        if steps := self.keep_newest_only():
            yield f"checkpoint {', '.join(map(str, steps))} (a newer one is verified)"
        yield from self._caches(self.context.settings)

    def _garbage(self) -> Iterator[str]:
        for path in run_garbage.garbage(self.context.directory, at_work=True):
            self.lease.require_valid()
            shutil.rmtree(path)
            yield f"{path.name}, which nothing goes on from"

    def _caches(self, settings: Settings) -> Iterator[str]:
        """Caches that no run uses and nobody pinned, the longest unused first; those of this job stay."""
        needed = {fetch.pin for fetch in requirements.wanted(self.context.spec, resuming=False)}
        for item in [*run_garbage.items(settings), *inventory.everything(settings)]:
            if item.kept or not item.mib or inventory.key(item) in needed or not self.lease.is_valid():
                continue
            with contextlib.suppress(Busy, OSError, Pi0qError):
                _remove(item, settings)
                yield f"{item.what} ({gib(item.mib)})"


def _remove(item: Item, settings: Settings) -> None:
    if item.kind == "leftovers":
        run_garbage.remove_garbage(item, settings)
    else:
        inventory.remove(item, settings)


class DiskPressure(TrainerListener):
    """Watches the data disk during one life of a trainer."""

    def __init__(
        self,
        home: Path,
        size: SaveSize,
        cleaner: RunCleaner,
        *,
        run_in_turn: Callable[[Callable[[], object]], None],
        note: Callable[[str], None],
        measure: Callable[[Path], Disk] = probe.disk,
    ) -> None:
        """`run_in_turn` runs an act between two seals; `note` writes a line into the job's history."""
        self.home, self.size, self.cleaner = home, size, cleaner
        self._run_in_turn, self._note, self._measure = run_in_turn, note, measure
        #: The numbers by which it acted last, as text; "" where there was space enough.
        self.shortage = ""
        self._hooked, self._ready = True, False
        # Saves that are being written or sealed: until then the free space says nothing of the next one.
        self._unsealed = 0
        self._evicting, self._evicted = False, False
        self._looked = -LOOK_SECONDS

    @property
    def saving(self) -> bool:
        """Whether a save is not sealed yet."""
        return self._unsealed > 0

    def on_event(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "start":
            self._hooked = bool(event.get("hooked", True))
        elif kind == "ready":
            self._ready = True
        elif kind == "saving":
            self._unsealed += 1

    def on_sealed(self, saved: Saved | None) -> None:
        self._unsealed = max(0, self._unsealed - 1)
        self._looked = -LOOK_SECONDS

    def check(self) -> StopCause | None:
        act = self.look(time.monotonic())
        if act is Act.FREE:
            self._run_in_turn(self.evict)
            return None
        # A trainer without a hook could not save now.
        if act is Act.NOTHING or not self._hooked:
            return None
        log.info("the data disk runs low: %s; nothing more can go, so the training stops", self.shortage)
        return StopCause.DISK_LOW if act is Act.SAVE else StopCause.DISK_FULL

    def look(self, now: float) -> Act:
        """Measure the disk and return what is to be done; `now` by a monotonic clock."""
        if self.saving or self._evicting or not self._ready or now - self._looked < LOOK_SECONDS:
            return Act.NOTHING
        self._looked = now
        try:
            seen = self._measure(self.home)
        except OSError:
            return Act.NOTHING
        act = decide(seen, save_mib=self.size.mib, evicted=self._evicted)
        self._evicting, self._evicted = act is Act.FREE, self._evicted and act is not Act.NOTHING
        self.shortage = "" if act is Act.NOTHING else self._describe(seen)
        return act

    def _describe(self, seen: Disk) -> str:
        few_inodes = seen.free_inodes is not None and seen.free_inodes < 2 * SAVE_INODES
        inodes = f" and {seen.free_inodes} files" if few_inodes else ""
        takes = f"{SAVE_INODES} files" if few_inodes else gib(self.size.mib)
        return f"{gib(seen.free_mib)}{inodes} free on {seen.path}, the next save takes {takes}"

    def evict(self) -> None:
        """Evict what may go until there is enough space."""
        removed: list[str] = []
        try:
            for what in self.cleaner.removals():
                removed.append(what)
                if self._is_enough():
                    return
        except (OSError, LeaseExpired) as error:
            log.info("could not evict more: %s", error)
        finally:
            if removed:
                text = f"the data disk ran low ({self.shortage}): removed {', '.join(removed)}"
                log.info("%s", text)
                self._note(text)
            self._evicting, self._evicted = False, True
            self._looked = -LOOK_SECONDS

    def _is_enough(self) -> bool:
        return decide(self._measure(self.home), save_mib=self.size.mib, evicted=False) is Act.NOTHING
