"""What is left to do for runs and needs the network, done apart from any training: the push, the WandB sync, …

    the runner adds a chore (run/chores.py) -> a round finds it due -> its kind works, in a child process -> the record

One thread a kind at work, at most; a try that fails rests for 1 to 30 minutes, and so on for ever; one that only a
person can mend is tried each 30 minutes, and at once after `pi0q retry ID`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import redis

from pi0q.jobs import aftermath
from pi0q.jobs.errors import NotFound
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED
from pi0q.queue.settings import Settings
from pi0q.queue.store import NotOwner, ServerOlder, Store, heard
from pi0q.workers.run.chores import DONE, FAILED, PENDING, Chore, Chores, everywhere
from pi0q.workers.run.directory import RunDirectory

logger = logging.getLogger("pi0q")


class Later(Exception):
    """It could not be done now. `slowly`: a person has to act first; `asked`: seconds that someone wants us away."""

    def __init__(self, why: str, *, asked: float = 0.0, slowly: bool = False) -> None:
        self.asked, self.slowly = asked, slowly
        super().__init__(why)


class Never(Exception):
    """It can't be done, however often it is tried; a user's `pi0q retry` tries it all the same."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a chore is done with."""

    chore: Chore
    settings: Settings
    directory: RunDirectory
    #: The job as the queue knows it.
    record: Record
    #: Says where it is, in words; shown as the chore's detail.
    say: Callable[[str], None]
    #: Set when the worker stops: the work is to end soon, with Later.
    stopping: threading.Event

    @property
    def job_id(self) -> str:
        return self.directory.path.name


@dataclass(frozen=True, kw_only=True)
class Did:
    """What came of a chore that is done."""

    detail: str
    #: For the record's field of this kind: an address, a size.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Fields of the record besides.
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of chore."""

    #: Where its work is done, "module:function": Desk -> Did; raises Later or Never.
    work: str
    #: The field of the record that tells of it.
    field: str
    #: Whether it speaks only of what lies on this box (a mapping by box), also while the job goes on elsewhere;
    #: else it is of the whole job, after its end.
    own: bool = False
    #: Where chores are found that no runner lived to write down, "module:function": (settings, box) -> those of each
    #: run; "" where only the runner knows.
    found: str = ""

    def load(self) -> Callable[[Desk], Did]:
        work: Callable[[Desk], Did] = _named(self.work)
        return work


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


#: kind -> how it is done.
KINDS: dict[str, Kind] = {
    "push": Kind(work="pi0q.workers.after.push:work", field="push"),
    "copy": Kind(work="pi0q.workers.after.last_copy:work", field="copy"),
    "wandb": Kind(
        work="pi0q.workers.after.sync:work", field="wandb_sync", own=True, found="pi0q.workers.after.sync:found"
    ),
}

#: Seconds between two looks for chores that nobody wrote down.
FIND_SECONDS = 60.0


class Aftercare(threading.Thread):
    """Does the chores of one box until it is stopped; what it was at is taken up by the next worker."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        box: str,
        kinds: Mapping[str, Kind] = KINDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970: rests outlive this process."""
        super().__init__(name="aftercare", daemon=True)
        self.settings, self.store, self.box, self.kinds, self.clock = settings, store, box, kinds, clock
        self.stopping = threading.Event()
        #: Now: the package may be upgraded in place below a worker that lives on.
        self._work = {name: kind.load() for name, kind in kinds.items()}
        self._find = [_named(kind.found) for kind in kinds.values() if kind.found]
        self._found_at = -FIND_SECONDS
        self._busy: dict[str, threading.Thread] = {}

    # -- the thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        timing = self.settings.timing
        while not self.stopping.is_set():
            try:
                with self.store.subscribe("wake") as waking:
                    while not self.stopping.is_set():
                        self.round()
                        # A job that ended, or a user's wish; else the next rest may be over.
                        list(heard(waking, timing.beat))
            except redis.RedisError:
                self.stopping.wait(timing.retry)
            except Exception:
                logger.exception("aftercare: can't look for chores; trying again")
                self.stopping.wait(timing.beat)

    def stop(self, patience: float = 5.0) -> None:
        """Ends it and what it is at."""
        self.stopping.set()
        deadline = time.monotonic() + patience
        for thread in list(self._busy.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def round(self) -> None:
        """Begins what is due, and tells the queue what it has not heard yet."""
        if time.monotonic() - self._found_at >= FIND_SECONDS:
            self._found_at = time.monotonic()
            for find in self._find:
                for chores, chore in find(self.settings, self.box):
                    chores.add(chore)
        for chores in everywhere(self.settings.runs):
            # Before it is read: a try that ends meanwhile would be begun anew.
            busy = frozenset(self._busy)
            for chore in chores.read():
                if chore.kind in self.kinds and not (chore.state == DONE and chore.told):
                    self._look(chores, chore, busy)

    def _look(self, chores: Chores, chore: Chore, busy: Container[str]) -> None:
        try:
            record = self.store.get(chores.path.name)
        except NotFound:
            # An emptied queue, or one with older data: its ledger may tell it of the job yet.
            return
        if not self._mine(chores, chore, record):
            return
        wished = self._wished(record.id)
        if wished > chore.heeded_ms:
            chore = chores.change(chore, heeded_ms=wished, next_at=0.0, tries=0) or chore
            if chore.state == FAILED:
                chore = chores.change(chore, state=PENDING, told=False) or chore
        if not chore.told:
            self._tell(chores, chore)
        if chore.state == PENDING and self._due(chore) and chore.kind not in busy:
            thread = threading.Thread(target=self._do, args=(chores, chore, record), name=f"aftercare {chore.kind}")
            thread.daemon = True
            self._busy[chore.kind] = thread
            thread.start()

    def _mine(self, chores: Chores, chore: Chore, record: Record) -> bool:
        """Whether the chore may be done now; one that became another's is dropped."""
        if self.kinds[chore.kind].own:
            return chore.epoch < record.epoch or (chore.epoch == record.epoch and record.state not in OWNED)
        if chore.epoch > record.epoch or (chore.epoch == record.epoch and record.state in OWNED):
            return False
        if (record.epoch, record.box) != (chore.epoch, self.box) or record.ended_ms is None:
            logger.info("%s: its %s is no longer this box's: epoch %d went on", record.id, chore.kind, record.epoch)
            chores.drop(chore)
            return False
        return True

    def _due(self, chore: Chore) -> bool:
        # A clock that was set back must not make it wait for hours.
        return not 0 < chore.next_at - self.clock() <= aftermath.LONGEST_REST_SECONDS

    def _wished(self, job_id: str) -> int:
        return int(self.store.client.hget(self.store.prefix + f"job:{job_id}", "retry_ms") or 0)

    # -- one chore --------------------------------------------------------------------------------------

    def _do(self, chores: Chores, chore: Chore, record: Record) -> None:
        """One try of one chore, in a thread of its own: a child dies with the thread that began it."""
        try:
            desk = Desk(
                chore=chore, settings=self.settings, directory=RunDirectory(chores.path), record=record,
                say=lambda text: self._say(chores, chore, text), stopping=self.stopping,
            )  # fmt: skip
            did = self._work[chore.kind](desk)
            logger.info("%s: %s done: %s", record.id, chore.kind, did.detail)
            result = {**chore.result, **did.result}
            self._stands(chores, chore, state=DONE, detail=did.detail, result=result, fields=did.fields)
        except Later as why:
            if not self.stopping.is_set():
                self._rests(chores, chore, str(why), asked=why.asked, slowly=why.slowly)
        except Never as why:
            logger.warning("%s: %s failed for good: %s", record.id, chore.kind, why)
            self._stands(chores, chore, state=FAILED, detail=str(why), tries=chore.tries + 1)
        except Exception as error:
            # A fault of ours: the others go on, and so does this one, slowly.
            logger.exception("%s: %s broke off", record.id, chore.kind)
            with contextlib.suppress(OSError):
                self._rests(chores, chore, f"it broke off: {type(error).__name__} (see the worker's log)", slowly=True)
        finally:
            self._busy.pop(chore.kind, None)
        self._tell_now(chores, chore)

    def _rests(self, chores: Chores, chore: Chore, why: str, *, asked: float = 0.0, slowly: bool = False) -> None:
        tries = chore.tries + 1
        rest = aftermath.rest_seconds(tries, asked=asked, slowly=slowly)
        logger.warning("%s: %s not done: %s; tried again in %.0f s", chores.path.name, chore.kind, why, rest)
        self._stands(chores, chore, detail=why, tries=tries, next_at=self.clock() + rest)

    def _stands(self, chores: Chores, chore: Chore, **fields: Any) -> None:
        chores.change(chore, told=False, **fields)

    def _say(self, chores: Chores, chore: Chore, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stands(chores, chore, detail=text)
        self._tell_now(chores, chore)

    def _tell_now(self, chores: Chores, chore: Chore) -> None:
        # What can't be told now is told in a later round.
        with contextlib.suppress(redis.RedisError, OSError):
            for now in chores.read():
                if (now.kind, now.epoch) == (chore.kind, chore.epoch) and not now.told:
                    self._tell(chores, now)

    def _tell(self, chores: Chores, chore: Chore) -> None:
        kind = self.kinds[chore.kind]
        try:
            self.store.after(
                chores.path.name, chore.epoch, box=self.box, field=kind.field, own=kind.own,
                told=chore.to_record(), **chore.fields,
            )  # fmt: skip
        except ServerOlder:
            return
        except NotOwner:
            chores.drop(chore)
            return
        chores.change(chore, told=True)
