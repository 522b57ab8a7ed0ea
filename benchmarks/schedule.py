"""Simulate a mixed fleet with pi0q's own scheduling policy (queue/schedule.py) beside FIFO and EASY, and a lower bound.

    python benchmarks/schedule.py [--quick] [--seeds N] [--out REPORT.md]

200 jobs of the kinds of KINDS (VRAM by pi0q's own estimator, hours log-normal), 16 boxes with 43 cards. A job has its
cards for itself. The policies know of each job's hours what `knowledge` says: exactly, within a factor, or nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.estimates import job_needs
from pi0q.jobs.spec import parse
from pi0q.queue import affinity, schedule
from pi0q.queue.affinity import WarmBox
from pi0q.queue.schedule import BoxCards, Card, Reserved, Waiting

HOUR = 3600.0
GIB = 1024
#: MiB of a card that the driver keeps.
DRIVER_MIB = 600
#: GiB of a card, and how many the box has.
FLEET = (
    *[(24, 1)] * 3, (24, 2), (24, 4), (48, 1), (48, 2), (48, 4), (48, 8), (80, 1), (80, 1), (80, 2), (80, 4), (80, 8),
    (96, 1), (96, 2),
)  # fmt: skip
#: Seeds of `--quick`.
QUICK = 5


def reckoned(**train: Any) -> int:
    """Return the MiB of VRAM that pi0q reckons for such a training."""
    policy = {"device": "cuda", "push_to_hub": False, **train.pop("policy")}
    file = {"name": "x", "train": {"dataset": {"repo_id": "a/b"}, "policy": policy, **train}}
    return job_needs.estimate(parse(json.dumps(file), filename="x.yaml")).vram_mib


@dataclass(frozen=True)
class Kind:
    """A kind of training."""

    share: float
    gpus: int
    vram_mib: int
    #: Median.
    hours: float


def kinds() -> tuple[Kind, ...]:
    """Return what labs train, a guess: the same as in the first measurement of 2026-11-29."""
    return (
        Kind(0.30, 1, reckoned(policy={"type": "act"}), 3.0),
        Kind(0.20, 1, reckoned(policy={"type": "smolvla"}, batch_size=32), 5.0),
        Kind(
            0.15, 1, reckoned(policy={"type": "pi0", "train_expert_only": True, "dtype": "bfloat16"}, batch_size=8), 8.0
        ),
        Kind(0.20, 1, reckoned(policy={"type": "pi0", "dtype": "bfloat16"}, batch_size=8), 12.0),
        Kind(0.07, 1, 90 * GIB, 12.0),
        Kind(0.05, 2, 40 * GIB, 8.0),
        Kind(0.03, 8, 40 * GIB, 6.0),
    )


@dataclass(eq=False)
class Job:
    """A job of a trace and what became of it; times are hours."""

    id: str
    gpus: int
    vram_mib: int
    at: float
    hours: float
    #: What is thought of its hours before it starts; while it runs, its ETA is right.
    thought: float = math.inf
    started: float = -1.0
    ended: float = -1.0
    #: Hours until it starts, as it was told when it was submitted.
    told: float = math.inf
    user: str = ""
    #: MiB of what it reads, by name.
    reads: Mapping[str, int] = field(default_factory=dict)
    #: MiB of its download, whose hours come to its own.
    fetched_mib: int = 0

    @property
    def is_big(self) -> bool:
        """Return whether few boxes can hold it."""
        return self.gpus == 8 or self.vram_mib >= 90 * GIB


def trace(seed: int, known: Sequence[Kind], *, each: float, error: float, count: int = 200) -> list[Job]:
    """Return jobs that arrive at once, or one each `each` hours (Poisson); `error`: sigma of what is thought."""
    rng, guess, jobs, at = random.Random(seed), random.Random(seed + 10_000), list[Job](), 0.0
    for number in range(count):
        kind = rng.choices(known, [one.share for one in known])[0]
        at += rng.expovariate(1 / each) if each else 0.0
        hours = min(48.0, max(0.5, rng.lognormvariate(0, 0.8) * kind.hours))
        thought = hours * guess.lognormvariate(0, error)
        jobs.append(Job(f"{number:05d}", kind.gpus, kind.vram_mib, at, hours, thought))
    return jobs


def bound(jobs: Sequence[Job], fleet: Iterable[tuple[int, int]]) -> float:
    """Return hours before which no schedule can end: the longest job, and for each class its work by its cards."""
    best, first = max(job.at + job.hours for job in jobs), min(job.at for job in jobs)
    for vram_mib in {job.vram_mib for job in jobs}:
        for gpus in (1, 2, 8):
            work = sum(job.hours * job.gpus for job in jobs if job.vram_mib >= vram_mib and job.gpus >= gpus)
            cards = sum(count for gib, count in fleet if gib * GIB - DRIVER_MIB >= vram_mib and count >= gpus)
            best = max(best, first + work / cards) if work and cards else best
    return best


@dataclass(eq=False)
class Box:
    """A box of the simulation."""

    name: str
    total_mib: int
    on: list[Job | None]
    #: What was downloaded to it.
    warm: set[str] = field(default_factory=set)

    def view(self, now: float) -> BoxCards:
        """Return the box as the policy sees it."""
        left = [(job, max(0.0, job.started + job.hours - now) * HOUR if job else 0.0) for job in self.on]
        cards = [Card(total_mib=self.total_mib, busy=busy, user=job.user if job else "") for job, busy in left]
        return BoxCards(name=self.name, cards=tuple(cards))


@dataclass(frozen=True)
class Policy:
    """Who starts: as pi0q decides it (`own`), or as queues commonly do, in the order of submission."""

    name: str
    own: bool = False
    #: Of so many first jobs that do not fit cards are reserved.
    depth: int = 0
    #: Whether others may go before the first.
    backfill: bool = True
    #: Whether a job goes to the tightest box; else to any.
    tight: bool = True
    #: Whether users share fairly.
    fair: bool = False
    #: Whether a box that has what a job reads is preferred: among cards of one size, or of any.
    warm: bool = False
    any_size: bool = False


POLICIES = (
    Policy("plain FIFO", backfill=False, tight=False),
    Policy("FIFO, others may pass"),
    Policy("EASY", depth=1),
    Policy("pi0q", own=True),
)


@dataclass
class Fleet:
    """The boxes of a simulation, and the trace that they work off."""

    boxes: list[Box]
    policy: Policy
    now: float = 0.0
    waiting: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> None:
        """Start and end every job."""
        to_come = sorted(jobs, key=lambda job: (job.at, job.id))
        while True:
            fresh = [job for job in to_come if job.at <= self.now + 1e-9]
            to_come = to_come[len(fresh) :]
            self.waiting += fresh
            if self.waiting:
                self._schedule(fresh)
            ends = [job.started + job.hours for box in self.boxes for job in box.on if job]
            times = [*ends, *(job.at for job in to_come[:1])]
            if not times:
                return
            self.now = min(times)
            for box in self.boxes:
                for number, job in enumerate(box.on):
                    if job and job.started + job.hours <= self.now + 1e-9:
                        job.ended, box.on[number] = self.now, None

    def _schedule(self, fresh: Sequence[Job]) -> None:
        by_id = {job.id: job for job in self.waiting}
        views = [box.view(self.now) for box in self.boxes]
        asked = [_waiting(job) for job in self.waiting]
        if self.policy.own and fresh:
            told = schedule.forecast(asked, views, fair=self.policy.fair)
            for job in fresh:
                job.told = told[job.id] / HOUR
        if self.policy.own:
            starts = schedule.starts_now(asked, views, fair=self.policy.fair)
            for at, start in enumerate(starts):
                later = {one.box for one in starts[at:]}
                cards: Sequence[int] = start.cards
                box = next(box for box in self.boxes if box.name == start.box)
                if self.policy.warm and start.job.gpus == 1:
                    box, cards = self._warmest(by_id[start.job.id], box, cards, later)
                self._put(by_id[start.job.id], box, cards)
        else:
            self._as_submitted(by_id, sorted(asked, key=lambda job: job.place))

    def _warmest(self, job: Job, box: Box, cards: Sequence[int], later: Collection[str]) -> tuple[Box, Sequence[int]]:
        """Return another box with a free card that has what the job reads, or the same."""
        free = [one for one in self.boxes if None in one.on and one.total_mib >= job.vram_mib and one.name not in later]
        size = 10**9 if self.policy.any_size else box.total_mib
        mine = WarmBox(name=box.name, card_mib=size, warm=box.warm)
        others = [WarmBox(name=one.name, card_mib=one.total_mib, warm=one.warm) for one in free]
        found = affinity.better(job.reads, mine, others)
        if found is None:
            return box, cards
        other = next(one for one in self.boxes if one.name == found.box)
        return other, (other.on.index(None),)

    def _as_submitted(self, by_id: dict[str, Job], asked: list[Waiting]) -> None:
        boxes = sorted(self.boxes, key=lambda box: (box.total_mib, len(box.on))) if self.policy.tight else self.boxes
        reserved = list[Reserved]()
        for job in asked:
            if self._start(by_id[job.id], job, boxes, reserved):
                continue
            if not self.policy.backfill:
                break
            if len(reserved) < self.policy.depth:
                reserved += self._reserve_one(job, reserved)

    def _reserve_one(self, job: Waiting, reserved: Sequence[Reserved]) -> list[Reserved]:
        """Return cards for a job of any size, as plain EASY keeps them."""
        choices = []
        for box in sorted((box.view(self.now) for box in self.boxes), key=schedule.tightness):
            kept = {card for one in reserved if one.box == box.name for card in one.cards}
            if first := box.first_cards(job, kept):
                choices.append(Reserved(job_id=job.id, box=box.name, cards=first[1], start=first[0]))
        return [min(choices, key=lambda one: one.start)] if choices else []

    def _start(self, job: Job, asked: Waiting, boxes: Iterable[Box], reserved: Sequence[Reserved]) -> bool:
        for box in boxes:
            if box.total_mib < job.vram_mib:
                continue
            free = [
                number
                for number, on in enumerate(box.on)
                if on is None and not schedule.is_kept_from(asked, number, reserved, box.name)
            ]
            if len(free) >= job.gpus:
                self._put(job, box, free[: job.gpus])
                return True
        return False

    def _put(self, job: Job, box: Box, cards: Iterable[int]) -> None:
        for number in cards:
            box.on[number] = job
        job.started = self.now
        job.fetched_mib = sum(mib for name, mib in job.reads.items() if name not in box.warm)
        job.hours += job.fetched_mib / MIB_PER_HOUR
        box.warm.update(job.reads)
        self.waiting.remove(job)


def _waiting(job: Job) -> Waiting:
    return Waiting(
        id=job.id,
        gpus=job.gpus,
        vram_mib=job.vram_mib,
        submitted=job.at * HOUR,
        place=float(job.id),
        seconds=job.thought * HOUR,
        at_most=job.thought * HOUR,
        user=job.user,
    )


def fleet_of(cards: Iterable[tuple[int, int]], policy: Policy) -> Fleet:
    """Return an idle fleet."""
    boxes = [Box(f"b{at:02d}", gib * GIB - DRIVER_MIB, [None] * count) for at, (gib, count) in enumerate(cards)]
    return Fleet(boxes, policy)


#: Columns of the report.
COLUMNS = (
    "makespan, h",
    "x bound",
    "mean turnaround, h",
    "big jobs' wait p95, h",
    "longest wait, h",
    "told start within 20 %",
)


def figures(jobs: Sequence[Job]) -> tuple[float, ...]:
    """Return the columns of one trace."""
    big = sorted(job.started - job.at for job in jobs if job.is_big)
    makespan = max(job.ended for job in jobs)
    good = [abs((job.started - job.at) - job.told) <= max(0.2 * (job.started - job.at), 0.1) for job in jobs]
    return (
        makespan,
        makespan / bound(jobs, FLEET),
        statistics.mean(job.ended - job.at for job in jobs),
        big[int(0.95 * len(big))] if big else 0.0,
        max(job.started - job.at for job in jobs),
        100 * sum(good) / len(good),
    )


def table(seeds: int, *, each: float, error: float) -> list[str]:
    """Return a table: medians over the seeds of every policy."""
    known, rows = kinds(), []
    for policy in POLICIES:
        found = []
        for seed in range(seeds):
            jobs = trace(seed, known, each=each, error=error)
            fleet_of(FLEET, policy).run(jobs)
            found.append(figures(jobs))
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        told = f"{medians[5]:.0f} %" if policy.own else "-"
        shown = [f"{medians[0]:.1f}", f"{medians[1]:.2f}", *(f"{one:.1f}" for one in medians[2:5]), told]
        rows.append(f"| {policy.name} | {' | '.join(shown)} |")
    return [f"| policy | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|", *rows]


#: Of the comparison of two users.
SHARING = (*POLICIES[1:], Policy("pi0q, fair share", own=True, fair=True))
SHARING_COLUMNS = ("makespan, h", "b's mean wait, h", "b's longest wait, h", "a's mean turnaround, h")


def two_users(seed: int, known: Sequence[Kind]) -> list[Job]:
    """Return 200 jobs of one user at once, and of another 20 jobs of one card, one each 2 hours."""
    flood, others = trace(seed, known, each=0.0, error=0.0), trace(seed + 1, known, each=2.0, error=0.0, count=40)
    single = [job for job in others if job.gpus == 1][:20]
    for number, job in enumerate(single):
        job.id, job.user = f"{len(flood) + number:05d}", "b"
    for job in flood:
        job.user = "a"
    return [*flood, *single]


def sharing_table(seeds: int) -> list[str]:
    """Return how two users fare of whom one floods the queue: medians over the seeds of every policy."""
    known, rows = kinds(), []
    for policy in SHARING:
        found = []
        for seed in range(seeds):
            jobs = two_users(seed, known)
            fleet_of(FLEET, policy).run(jobs)
            waits = [job.started - job.at for job in jobs if job.user == "b"]
            turnaround = statistics.mean(job.ended - job.at for job in jobs if job.user == "a")
            found.append((max(job.ended for job in jobs), statistics.mean(waits), max(waits), turnaround))
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        rows.append(f"| {policy.name} | {' | '.join(f'{one:.1f}' for one in medians)} |")
    return [f"| policy | {' | '.join(SHARING_COLUMNS)} |", f"|---{'|---' * len(SHARING_COLUMNS)}|", *rows]


#: Of the comparison of what is downloaded; MiB an hour, 20 MiB a second: what rented boxes get of a mirror.
FETCHING = (
    Policy("pi0q, tightest box alone", own=True),
    Policy("pi0q, warm box of the same cards", own=True, warm=True),
    Policy("pi0q, warm box of any cards", own=True, warm=True, any_size=True),
)
MIB_PER_HOUR = 20 * 3600
FETCHING_COLUMNS = ("makespan, h", "mean turnaround, h", "big jobs' wait p95, h", "downloaded, GiB")


def reading(seed: int, known: Sequence[Kind]) -> list[Job]:
    """Return jobs, one each 0.5 h, that read one of 12 datasets of 2 to 60 GiB; large ones read pi0's weights, too."""
    jobs, rng = trace(seed, known, each=0.5, error=0.0), random.Random(seed + 20_000)
    datasets = [int(GIB * min(60.0, max(2.0, rng.lognormvariate(math.log(12), 0.8)))) for _ in range(12)]
    for job in jobs:
        number = rng.randrange(12)
        job.reads = {f"dataset {number}": datasets[number]} | ({"pi0": 14 * GIB} if job.vram_mib > 20 * GIB else {})
    return jobs


def fetching_table(seeds: int) -> list[str]:
    """Return what boxes download: medians over the seeds of every policy."""
    known, rows = kinds(), []
    for policy in FETCHING:
        found = []
        for seed in range(seeds):
            jobs = reading(seed, known)
            fleet_of(FLEET, policy).run(jobs)
            whole = figures(jobs)
            found.append((whole[0], whole[2], whole[3], sum(job.fetched_mib for job in jobs) / GIB))
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        rows.append(f"| {policy.name} | {' | '.join(f'{one:.1f}' for one in medians)} |")
    return [f"| policy | {' | '.join(FETCHING_COLUMNS)} |", f"|---{'|---' * len(FETCHING_COLUMNS)}|", *rows]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few seeds, under two minutes")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the tables here too")
    asked = parser.parse_args()
    seeds, began, lines = QUICK if asked.quick else asked.seeds, time.monotonic(), list[str]()
    for each, error in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.3, 0.4)):
        arrive = f"one each {each:g} h" if each else "all at once"
        hours = "known exactly" if not error else f"thought with an error of sigma {error:g} (log-normal)"
        part = [
            "",
            f"### 200 jobs, {arrive}; hours {hours}; {seeds} seeds, medians",
            "",
            *table(seeds, each=each, error=error),
        ]
        print("\n".join(part), flush=True)
        lines += part
    title = f"### User a submits 200 jobs at once, user b 20, one each 2 h; {seeds} seeds, medians"
    part = ["", title, "", *sharing_table(seeds)]
    print("\n".join(part), flush=True)
    lines += part
    title = f"### 200 jobs, one each 0.5 h, that download what they read; {seeds} seeds, medians"
    part = ["", title, "", *fetching_table(seeds)]
    print("\n".join(part), flush=True)
    lines += part
    print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
