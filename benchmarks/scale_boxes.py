"""Boxes for scale.py: a thousand that only ask and claim, and some dozens with pi0q's own agent."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from pi0q.queue import settings as all_settings
from pi0q.queue.connection import connect
from pi0q.queue.resp_client import Address, RespClient
from pi0q.queue.store import Store
from pi0q.queue.store_reads import LISTED, UNLISTED
from pi0q.queue.store_types import Claimant, Claimed, Offer, Reservation
from pi0q.queue.waiting_index import ScanPosition
from pi0q.workers.agent.agent import Agent
from pi0q.workers.agent.box import Box
from pi0q.workers.trainer.interpreter import TrainerPython

#: MiB of the one card of a simulated box, and of it what a job of the burst takes.
CARD_MIB, JOB_MIB = 80 * 1024, 8 * 1024
LEASE_SECONDS = 600.0
#: Seconds between two looks of a box that nothing wakes; its heartbeat is as long.
BEAT_SECONDS = 10.0
#: What a box reads of a waiting job.
JUDGED_BY = list(LISTED + UNLISTED)
#: Threads of a process that plays boxes.
THREADS = 8
#: Seconds after which a box that got no job gives up.
GIVE_UP_SECONDS = 120.0
#: Words of a wake that announce no job.
NO_JOB = ("", "room", "postrun")


@dataclass
class Tally:
    """What boxes asked and got."""

    answers: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    claim_ms: list[float] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        return sum(self.answers.values())

    @classmethod
    def added(cls, tallies: Iterable[Tally]) -> Tally:
        """The sum of several."""
        whole = cls()
        for one in tallies:
            whole.answers += one.answers
            whole.looks += one.looks
            whole.claim_ms += one.claim_ms
        return whole


class AskingBox:
    """A box with one slot and one card that asks the server as the agent does, and judges nothing."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name, self.full = store, name, False
        self.position, self.next_look = ScanPosition(), time.monotonic() + random.uniform(0, BEAT_SECONDS)
        self.resources = (f"gpu:FAKE-{name}-0", f"disk:{name}")

    def look(self, tally: Tally, called: str = "") -> None:
        """Ask for jobs that fit and claim the first that still waits, as `ClaimLoop.claim` does."""
        self.next_look = time.monotonic() + BEAT_SECONDS
        while not self.full:
            tally.looks += 1
            self.store.owned(self.name)
            promises = self.store.promises(self.resources)
            found = self.store.next_candidates(self.name, (CARD_MIB,), self.position, called=called)
            self.position = found.position
            if found.found:
                self._read([one.id for one in found.found])
                self._claim([one.id for one in found.found], promises, tally)
            elif not found.more:
                return
        # A full box says so once, and is woken no more.
        self.position = self.store.next_candidates(self.name, None, self.position).position

    def _read(self, ids: list[str]) -> None:
        """Read what a box judges by, and judge nothing."""
        pipe = self.store.client.pipeline(transaction=False)
        for job_id in ids:
            pipe.hmget(f"{self.store.prefix}job:{job_id}", JUDGED_BY)
        pipe.execute()

    def _claim(self, ids: list[str], promises: Mapping[str, tuple[int, dict[str, int]]], tally: Tally) -> None:
        promised = [(name, promises[name][0], mib) for name, mib in zip(self.resources, (JOB_MIB, 10), strict=True)]
        terms = Reservation(promises=promised, gpus=[f"FAKE-{self.name}-0"])
        text = "measured sim with 80.0 of 80.0 GiB free (simulated); disk 70.0 GiB free"
        began = time.perf_counter()
        answer = self.store.claim_first(
            [Offer(job_id=job_id, reservation=terms, text=text) for job_id in ids],
            Claimant(box=self.name, boot="boot", lease_seconds=LEASE_SECONDS),
        )
        tally.claim_ms.append((time.perf_counter() - began) * 1000)
        self.full = isinstance(answer, Claimed)
        tally.answers["claimed" if self.full else str(answer)] += 1


def serve_slice(url: str, prefix: str, names: list[str], ready: Any, results: Any) -> None:
    """Be these boxes, by some threads, until each has a job: once all are `ready`; tallies go to `results`."""
    parts = [names[at::THREADS] for at in range(THREADS)]
    threads = [threading.Thread(target=_serve, args=(url, prefix, part, ready, results)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(url: str, prefix: str, names: list[str], ready: Any, results: Any) -> None:
    hearing = redis.Redis.from_url(url, decode_responses=True).pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    hearing.subscribe(f"{prefix}wake", *(f"{prefix}wake:{name}" for name in names))
    address = Address.parse(url)
    assert address is not None
    # The small client: the boxes' own CPU is not what is measured here.
    store: Any = Store(RespClient(address, timeout=GIVE_UP_SECONDS), prefix)  # type: ignore[arg-type]
    boxes, tally = {f"{prefix}wake:{name}": AskingBox(store, name) for name in names}, Tally()
    for box in boxes.values():
        box.look(tally)
    ready.wait(GIVE_UP_SECONDS)
    tally, give_up = Tally(), time.monotonic() + GIVE_UP_SECONDS
    while tally.answers["claimed"] < len(boxes) and time.monotonic() < give_up:
        said = hearing.get_message(timeout=0.05)
        if said is None:
            for box in boxes.values():
                if not box.full and time.monotonic() >= box.next_look:
                    box.look(tally)
        elif said["channel"] in boxes and said["data"] not in NO_JOB:
            boxes[said["channel"]].look(tally, said["data"])
    hearing.close()
    results.put(tally)


# -- boxes with pi0q's own agent ------------------------------------------------------------------


def settings_for(base: Path, url: str, prefix: str, name: str) -> all_settings.Settings:
    """The settings of a box whose card is simulated, with a home of its own."""
    home = base / "boxes" / name
    (home / "datasets" / "grab_box" / "meta").mkdir(parents=True, exist_ok=True)
    (home / "datasets" / "grab_box" / "meta" / "info.json").write_text("{}")
    env = {"PI0Q_REDIS_URL": url, "PI0Q_PREFIX": prefix, "PI0Q_HOME": str(home), "HOME": str(base), "PI0Q_BOX": name}
    env |= {"PI0Q_FAKE_GPUS": json.dumps([{"name": "sim", "total_gib": 80}]), "PI0Q_TRAINER_PYTHON": "/bin/false"}
    chosen = all_settings.load(env, config=base / "none.toml")
    return replace(chosen, system_disk_reserve_mib=0)


def real_box(base: Path, url: str, prefix: str, name: str, tally: Tally) -> Box:
    """A box of pi0q's own; it starts no runner and looks for no LeRobot."""
    chosen = settings_for(base, url, prefix, name)
    box = Box(chosen, Store(connect(chosen), prefix), slots=10)
    box.context.trainer = TrainerPython(python="/bin/false", lerobot="0.6.1")
    box.launcher.warm = lambda: None  # type: ignore[method-assign]
    box.claims.admission.begin = lambda trainer: None  # type: ignore[method-assign]
    _own_disk(box, name)
    _count_claims(box, tally)
    return box


def _own_disk(box: Box, name: str) -> None:
    """All these boxes lie on one disk; each counts its own, as a machine does."""
    measure = box.context.measure

    def measured() -> Any:
        host = measure()
        own = {"resource": f"disk:{name}"}
        return replace(host, data=replace(host.data, **own), system=replace(host.system, **own))

    box.context.measure = measured  # type: ignore[method-assign]


def _count_claims(box: Box, tally: Tally) -> None:
    claim = box.context.store.claim_first

    def counted(*args: Any) -> Any:
        answer = claim(*args)
        tally.answers["claimed" if isinstance(answer, Claimed) else str(answer)] += 1
        return answer

    box.context.store.claim_first = counted  # type: ignore[method-assign]


@contextmanager
def agents(boxes: list[Box]) -> Iterator[None]:
    """The agents of these boxes at work until the block ends."""
    threads: list[threading.Thread] = [Agent(box, print) for box in boxes]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    try:
        yield
    finally:
        for box in boxes:
            box.context.stopping.set()
            box.context.store.wake(box.name, "")
        for thread in threads:
            thread.join(15.0)
