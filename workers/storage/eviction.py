"""Evict caches and run garbage for a job that was claimed, the least recently used first; the job's history says so.

    evictable_for (claims/fit.py chooses from it) -> [the claim] -> make_room

Nothing is evicted before the claim is won: another box may have been faster.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import OWNED, State
from pi0q.jobs.transition import noted
from pi0q.queue import job_text
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.host.probe import Disk
from pi0q.workers.hub import requirements
from pi0q.workers.storage import inventory, run_garbage
from pi0q.workers.storage.inventory import Busy, Item, key

logger = logging.getLogger("pi0q")

#: Seconds for which sizes are reused: to measure them each file is looked at.
FRESH_SECONDS = 60.0


class Evictor:
    """Finds and evicts what one box can do without, for its claims."""

    def __init__(self, settings: Settings, store: Store, *, box: str, spec: Callable[[Record], Spec | str]) -> None:
        self.settings, self.store, self.box, self.spec = settings, store, box, spec
        self._seen: list[Item] = []
        self.invalidate()

    def evictable_for(self, job: Record, waiting: Iterable[Record], owned: Iterable[Record]) -> tuple[Item, ...]:
        """Return what may be evicted for this job, in order: run garbage, then what no waiting job wants, then by age.

        Never what this job, a job of this box, or a job that waits for this box needs.
        """
        waiting, owned = list(waiting), list(owned)
        near = [job, *owned, *(one for one in waiting if one.box == self.box)]
        mine, wanted = self._needed(near), self._needed(waiting)
        busy = {one.id for one in [job, *owned]}
        items = [
            item
            for item in self._items()
            if not item.kept and item.mib and key(item) not in mine and not (_is_run(item) and item.name in busy)
        ]
        return tuple(sorted(items, key=lambda item: (not _is_run(item), key(item) in wanted, item.used)))

    def invalidate(self) -> None:
        """Measure the caches again at the next call."""
        self._seen_at = -FRESH_SECONDS

    def _items(self) -> list[Item]:
        if time.monotonic() - self._seen_at >= FRESH_SECONDS:
            self._seen_at, self._seen = time.monotonic(), []
            try:
                self._seen = [*run_garbage.items(self.settings), *inventory.everything(self.settings)]
            except (OSError, ValueError):
                # Something was removed meanwhile. Jobs that fit without an eviction must not wait for it.
                logger.exception("could not measure the caches; evicting none of them for now")
        return [run_garbage.as_now(one) if _is_run(one) else inventory.as_now(one, self.settings) for one in self._seen]

    def _needed(self, jobs: Iterable[Record]) -> set[str]:
        """Return the names of the caches that these jobs use."""
        names = set[str]()
        for job in jobs:
            spec = self.spec(job)
            if isinstance(spec, Spec):
                names |= {fetch.pin for fetch in requirements.wanted(spec, resuming=False)}
                if spec.train.get("policy.compile_model"):
                    names |= {"inductor", "triton", *inventory.shared_kernels(self.settings)}
        return names

    def catch_up(self, disk: Disk, waiting: Iterable[Record], owned: Iterable[Record]) -> None:
        """Evict for a job whose worker died between the claim and the eviction."""
        owned = list(owned)
        if not (starting := [job for job in owned if job.state is State.CLAIMED]):
            return
        promised = self.store.promises([disk.resource])[disk.resource][1]
        lacking = outstanding_mib(promised, {job.id: job for job in owned}, "disk_now_mib") - disk.free_mib
        if lacking > 0:
            evictable = self.evictable_for(starting[0], waiting, owned)
            self.make_room(starting[0], starting[0].epoch, choose(evictable, lacking), evictable)

    def make_room(self, job: Record, epoch: int, chosen: Sequence[Item], evictable: Sequence[Item]) -> None:
        """Evict `chosen` for a claimed job, or others where one can't be removed; note it in the job's history."""
        lacking, removed = sum(item.mib for item in chosen), list[str]()
        for item in [*chosen, *(other for other in evictable if other not in chosen)]:
            if lacking <= 0:
                break
            try:
                freed = run_garbage.remove_garbage(item, self.settings) if _is_run(item) else self._remove(item)
            except (Busy, OSError, Pi0qError) as error:
                logger.warning("could not remove %s: %s", item.what, error)
                continue
            lacking -= freed
            removed.append(f"{item.what} ({freed / 1024:.1f} GiB, {_last_used(item)})")
        self.invalidate()
        if removed:
            text = f"made room: removed {', '.join(removed)}"
            logger.info("%s for %s", text, job.id)
            self.note(job.id, epoch, text)

    def _remove(self, item: Item) -> int:
        return inventory.remove(item, self.settings)

    def note(self, job_id: str, epoch: int, text: str) -> None:
        """Add a line to the job's history, in whichever state it is by now."""
        for state in sorted(OWNED):
            with contextlib.suppress(OwnershipLost):
                if self.store.move(job_id, noted(state, epoch, text=text), box=self.box) is not None:
                    return


def _is_run(item: Item) -> bool:
    return item.kind == "leftovers"


def _last_used(item: Item) -> str:
    return "replaced" if _is_run(item) else f"last used {job_text.span(max(0.0, time.time() - item.used))} ago"


def choose(evictable: Sequence[Item], lacking_mib: int) -> tuple[Item, ...]:
    """Return the first of these that free so many MiB together, and none in vain; () if all together are too few.

    `evictable` is in the order of eviction.
    """
    chosen: list[Item] = []
    freed = 0
    for item in evictable:
        if freed >= lacking_mib:
            break
        chosen.append(item)
        freed += item.mib
    if freed < lacking_mib:
        return ()
    for item in reversed(chosen[:-1]):
        if freed - item.mib >= lacking_mib:
            chosen.remove(item)
            freed -= item.mib
    return tuple(chosen)


def outstanding_mib(promised: Mapping[str, int], using: Mapping[str, Record], field: str) -> int:
    """Return what is promised and not yet used, MiB: a job that still loads its model will use all of it."""
    return sum(max(0, mib - (getattr(using[job], field) if job in using else 0)) for job, mib in promised.items())
