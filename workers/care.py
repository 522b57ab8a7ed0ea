"""Makes room on the data disk for a job that was claimed: what was used longest ago goes, and the history says so.

    spare (claims.judge chooses from it) -> [the claim] -> make_room

Nothing goes before the claim is won: another box may have been faster.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from pi0q.jobs.errors import Pi0qError
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import OWNED, State
from pi0q.jobs.transition import noted
from pi0q.queue import render
from pi0q.queue.settings import Settings
from pi0q.queue.store import NotOwner, Store
from pi0q.workers import claims, leftovers, shelf
from pi0q.workers.probe import Disk
from pi0q.workers.run import fetches
from pi0q.workers.shelf import Busy, Item, key

logger = logging.getLogger("pi0q")

#: Seconds for which sizes are good: to see them each file is looked at.
FRESH_SECONDS = 60.0


class Care:
    """The caches of one box, for its claims."""

    def __init__(self, settings: Settings, store: Store, *, box: str, spec: Callable[[Record], Spec | str]) -> None:
        self.settings, self.store, self.box, self.spec = settings, store, box, spec
        self._seen: list[Item] = []
        self.forget()

    def spare(self, job: Record, waiting: Iterable[Record], owned: Iterable[Record]) -> tuple[Item, ...]:
        """What could go for this job, in that order: what no job that waits anywhere wants, then the longest unused.

        Never what this job, one of this box's or one that waits for this box needs.
        """
        waiting, owned = list(waiting), list(owned)
        near = [job, *owned, *(one for one in waiting if one.box == self.box)]
        mine, wanted = self._needed(near), self._needed(waiting)
        busy = {one.id for one in [job, *owned]}
        found = [
            item
            for item in self._items()
            if not item.kept and item.mib and key(item) not in mine and not (_is_run(item) and item.name in busy)
        ]
        return tuple(sorted(found, key=lambda item: (not _is_run(item), key(item) in wanted, item.used)))

    def forget(self) -> None:
        """Has the caches looked through again the next time."""
        self._seen_at = -FRESH_SECONDS

    def _items(self) -> list[Item]:
        if time.monotonic() - self._seen_at >= FRESH_SECONDS:
            self._seen_at, self._seen = time.monotonic(), []
            try:
                self._seen = [*leftovers.items(self.settings), *shelf.everything(self.settings)]
            except (OSError, ValueError):
                # Something went while it was looked at. Jobs that fit without must not wait for it.
                logger.exception("could not look through the caches; none of them goes for now")
        return [leftovers.as_now(one) if _is_run(one) else shelf.as_now(one, self.settings) for one in self._seen]

    def _needed(self, jobs: Iterable[Record]) -> set[str]:
        found = set[str]()
        for job in jobs:
            spec = self.spec(job)
            if isinstance(spec, Spec):
                found |= {fetch.pin for fetch in fetches.wanted(spec, resuming=False)}
                if spec.train.get("policy.compile_model"):
                    found |= {"inductor", "triton"}
        return found

    def catch_up(self, disk: Disk, waiting: Iterable[Record], owned: Iterable[Record]) -> None:
        """Makes room for a job that was claimed by a worker which died before it could."""
        owned = list(owned)
        if not (starting := [job for job in owned if job.state is State.CLAIMED]):
            return
        promised = self.store.promises([disk.resource])[disk.resource][1]
        lacking = claims.due(promised, {job.id: job for job in owned}, "disk_now_mib") - disk.free_mib
        if lacking > 0:
            spare = self.spare(starting[0], waiting, owned)
            self.make_room(starting[0], starting[0].epoch, claims.enough(spare, lacking), spare)

    def make_room(self, job: Record, epoch: int, going: Sequence[Item], spare: Sequence[Item]) -> None:
        """Removes these for a job that was claimed under this epoch, others where one can't go; its history says so."""
        lacking, gone = sum(item.mib for item in going), list[str]()
        for item in [*going, *(one for one in spare if one not in going)]:
            if lacking <= 0:
                break
            try:
                freed = leftovers.remove_useless(item, self.settings) if _is_run(item) else self._remove(item)
            except (Busy, OSError, Pi0qError) as error:
                logger.warning("could not remove %s: %s", item.what, error)
                continue
            lacking -= freed
            gone.append(f"{item.what} ({freed / 1024:.1f} GiB, {_last_used(item)})")
        self.forget()
        if gone:
            text = f"made room: removed {', '.join(gone)}"
            logger.info("%s for %s", text, job.id)
            self.note(job.id, epoch, text)

    def _remove(self, item: Item) -> int:
        return shelf.remove(item, self.settings)

    def note(self, job_id: str, epoch: int, text: str) -> None:
        """A line in the job's history, in whichever state it is by now."""
        for state in sorted(OWNED):
            with contextlib.suppress(NotOwner):
                if self.store.move(job_id, noted(state, epoch, text=text), box=self.box) is not None:
                    return


def _is_run(item: Item) -> bool:
    return item.kind == "leftovers"


def _last_used(item: Item) -> str:
    return "replaced" if _is_run(item) else f"last used {render.span(max(0.0, time.time() - item.used))} ago"
