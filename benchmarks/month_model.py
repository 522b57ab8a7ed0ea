"""A month of one user and three rented boxes, simulated: who pays for what when faults come. No process, no clock.

What decides is the product's own code: which box is started (ops/power/plan.py), how a start without stock is tried
again (ops/power/state_file.py), what a claim costs and what of it is lost (jobs/cost.py). Times that a run takes are
constants that were measured; what was not measured stands in ASSUMED of benchmarks/month.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from benchmarks.goodput_model import EVERY_S, FETCH_S, RESUME_S, SAVE_S
from benchmarks.schedule import DRIVER_MIB, GIB, HOUR, MIB_PER_HOUR, Kind
from pi0q.jobs.cost import Hold, Price, total
from pi0q.workers.idle.decision import Idle

DAY = 24 * HOUR
#: Mean of what a full disk cost a training under pi0q, seconds (2026-11-29-goodput.md).
DISK_S = 538.0
#: Seconds without a byte after which pi0q starts a download again (`PI0Q_STALL_SECONDS`).
STALL_S = 120.0
#: LeRobot's part of a run between two saves: the guide has 20,000 of 50,000 steps.
HAND_SAVES = 0.4
#: A run that lacks memory ends after so long; a box that went away comes back after so long. Assumed.
OOM_S, AWAY_S = 300.0, DAY
#: Making the environment on a new box, once; what AutoDL takes an hour without a card (CNY). Assumed; a user's figure.
SETUP_S, NO_CARD = HOUR, 0.1
#: GiB of a dataset, and how many there are. Assumed.
DATASET_GIB, DATASETS = 5, 3
#: Jobs of the month, and the days in which they are submitted.
JOBS, SUBMIT_DAYS = 20, 26
#: Hours of the day at which the person looks; between the last and the first nobody does.
FIRST_LOOK, LAST_LOOK = 9, 23


class Fault(str, Enum):
    """What happens to a run, once."""

    RESTART = "the container restarts"
    GONE = "the box is away for a day"
    OOM = "the first run lacks memory"
    NAN = "the loss becomes NaN"
    DISK = "the disk is full"
    STALL = "the mirror sends no more bytes"


#: How often each comes in the month.
FAULTS = {Fault.RESTART: 5, Fault.GONE: 1, Fault.OOM: 2, Fault.NAN: 1, Fault.DISK: 2, Fault.STALL: 2}
AT_START = (Fault.OOM, Fault.STALL)


@dataclass(frozen=True)
class Rent:
    """A box that is rented by the hour."""

    name: str
    gib: int
    cny: float

    @property
    def card_mib(self) -> int:
        """Return what a job can have of its card."""
        return self.gib * GIB - DRIVER_MIB


@dataclass(eq=False)
class Job:
    """A job and how far it is; progress is hours of training."""

    id: str
    vram_mib: int
    at: float
    hours: float
    #: What it reads, GiB by name.
    reads: dict[str, int]
    #: Faults that are still to come, each at its progress.
    faults: list[tuple[float, Fault]]
    saved: float = 0.0
    #: The box that has its checkpoint.
    home: Box | None = None
    claims: int = 0
    #: When it may start; infinite while a person has to look first.
    ready_at: float = 0.0
    ended: float | None = None


@dataclass(eq=False)
class Box:
    """A box, on or off; times are seconds."""

    rent: Rent
    #: When its card is someone else's while it is off.
    taken: Sequence[tuple[float, float]] = ()
    on_since: float | None = None
    #: From when on nothing ran, and it can take a job.
    free_since: float = 0.0
    ready_at: float = 0.0
    away_until: float = 0.0
    run: Run | None = None
    idle: Idle = field(default_factory=Idle)
    #: Names of what lies in its cache.
    warm: set[str] = field(default_factory=set)

    def has_stock(self, at: float) -> bool:
        """Return whether it can be started."""
        return at >= self.away_until and not any(begin <= at < end for begin, end in self.taken)

    def fits(self, job: Job) -> bool:
        """Return whether the job fits its card."""
        return job.vram_mib <= self.rent.card_mib


@dataclass(frozen=True, kw_only=True)
class Run:
    """One claim, from its begin to its end."""

    job: Job
    box: Box
    begin: float
    #: Seconds of downloads, and when its trainer started.
    fetched: float
    ran: float
    #: The last save of this run as a time, 0 for none; the progress that lies in it.
    saved_at: float
    saved: float
    end: float
    #: Why it ended; None where it came to its last step.
    fault: Fault | None


@dataclass(frozen=True, kw_only=True)
class Style:
    """Who runs the trainings, and who switches the boxes."""

    name: str
    #: pi0q runs them; else a person does by the guide.
    pi0q: bool
    #: pi0q switches boxes on and off; else a person does when they look.
    power: bool
    #: Seconds between two looks of the person while awake.
    looks: float = 2 * HOUR

    def next_look(self, at: float) -> float:
        """Return when the person looks next."""
        day, second = divmod(at, DAY)
        if second <= FIRST_LOOK * HOUR:
            return day * DAY + FIRST_LOOK * HOUR
        look = FIRST_LOOK * HOUR + math.ceil((second - FIRST_LOOK * HOUR) / self.looks) * self.looks
        return day * DAY + look if look <= LAST_LOOK * HOUR else (day + 1) * DAY + FIRST_LOOK * HOUR


def trace(seed: int, kinds: Iterable[Kind], faults: Mapping[Fault, int] = FAULTS) -> list[Job]:
    """Return the month's jobs with their faults, as benchmarks/schedule.py draws them: those of one card."""
    rng, known = random.Random(seed), [kind for kind in kinds if kind.gpus == 1]
    jobs = []
    for number in range(JOBS):
        kind = rng.choices(known, [one.share for one in known])[0]
        at = rng.randrange(SUBMIT_DAYS) * DAY + rng.randrange(FIRST_LOOK * 60, 21 * 60) * 60.0
        hours = min(48.0, max(0.5, rng.lognormvariate(0, 0.8) * kind.hours))
        # Full pi0 and what is larger start from 14 GiB, the smallest from nothing.
        base = 14 if kind.hours >= 8 else 2 if kind.hours >= 5 else 0
        reads = {f"base-{base}": base, f"dataset-{rng.randrange(DATASETS)}": DATASET_GIB}
        jobs.append(Job(f"{number:02d}", kind.vram_mib, at, hours, reads, [], ready_at=at))
    for fault, times in faults.items():
        for job in rng.sample(jobs, times):
            job.faults.append((0.0 if fault in AT_START else rng.uniform(0, job.hours), fault))
    for job in jobs:
        job.faults.sort(key=lambda one: one[0])
    return sorted(jobs, key=lambda job: job.at)


def boxes(seed: int, rents: Iterable[Rent]) -> list[Box]:
    """Return the boxes, switched off; a tenth of the time another tenant has the card of one that is off. Assumed."""
    rng, found = random.Random(seed + 1_000), []
    for rent in rents:
        taken, at = list[tuple[float, float]](), 0.0
        while at < 90 * DAY:
            at += rng.expovariate(1 / (18 * HOUR))
            end = at + rng.expovariate(1 / (2 * HOUR))
            taken.append((at, end))
            at = end
        found.append(Box(rent, taken))
    return found


def run(job: Job, box: Box, begin: float, style: Style) -> Run:
    """Return the run that begins now: all that happens to it is known beforehand. Takes its faults off the job."""
    missing = sum(gib for name, gib in job.reads.items() if name not in box.warm)
    fetched = missing * GIB / MIB_PER_HOUR * HOUR
    fault = job.faults.pop(0) if job.faults else None
    elsewhere = job.home is not None and job.home is not box
    from_ = job.saved if style.pi0q or not elsewhere else 0.0
    ran = begin + fetched + RESUME_S + (FETCH_S if elsewhere and from_ else 0.0)
    whole: dict[str, Any] = {"job": job, "box": box, "begin": begin, "fetched": fetched, "ran": ran}
    if fault and fault[1] is Fault.STALL and missing and not style.pi0q:
        # It hangs until somebody looks, and is begun again then; what was fetched is not fetched again.
        end = style.next_look(begin + fetched / 2)
        return Run(**whole | {"ran": end}, saved_at=0.0, saved=from_, end=end, fault=Fault.STALL)
    if fault and fault[1] is Fault.STALL:
        whole |= {"fetched": fetched + STALL_S, "ran": ran + STALL_S} if missing else {}
        ran, fault = whole["ran"], job.faults.pop(0) if job.faults else None
    if fault and fault[1] is Fault.OOM:
        return Run(**whole, saved_at=0.0, saved=from_, end=ran + OOM_S, fault=Fault.OOM)
    saves = Saves(job.hours, from_, ran, style.pi0q)
    if fault is None:
        end = saves.time(job.hours)
        return Run(**whole, saved_at=end, saved=job.hours, end=end, fault=None)
    # Work that an earlier run lost is done again: a fault that came before this run's begin comes at its begin.
    at, kind = max(fault[0], from_), fault[1]
    if kind is Fault.DISK and style.pi0q:
        # It stops with a save while there is room for one.
        return Run(**whole, saved_at=saves.time(at) + SAVE_S, saved=at, end=saves.time(at) + SAVE_S, fault=kind)
    last = saves.last(at)
    end = saves.time(saves.next(at) if kind is Fault.DISK else at)
    if kind is Fault.NAN and not style.pi0q:
        # LeRobot goes on with it until somebody looks.
        end = style.next_look(end)
    return Run(**whole, saved_at=saves.time(last) if last > from_ else 0.0, saved=last, end=end, fault=kind)


@dataclass(frozen=True)
class Saves:
    """When a run saves: pi0q each half hour, LeRobot by steps."""

    hours: float
    from_: float
    ran: float
    pi0q: bool

    def _points(self, until: float) -> list[float]:
        """Return the progress at each save up to `until`, without the last of all."""
        every = EVERY_S / HOUR if self.pi0q else HAND_SAVES * self.hours
        first = self.from_ if self.pi0q else 0.0
        count = math.floor((until - first) / every + 1e-9)
        return [point for k in range(1, count + 1) if self.from_ < (point := first + k * every) < self.hours]

    def last(self, at: float) -> float:
        """Return the progress that is saved when the run is at `at`."""
        return max(self._points(at), default=self.from_)

    def next(self, at: float) -> float:
        """Return the progress at the next save."""
        return next((point for point in self._points(self.hours) if point >= at), self.hours)

    def time(self, progress: float) -> float:
        """Return when the run is at this progress, its saves included."""
        return self.ran + (progress - self.from_) * HOUR + len(self._points(progress)) * SAVE_S


@dataclass(kw_only=True)
class Bill:
    """What the month cost, CNY, and what for."""

    paid: float = 0.0
    training: float = 0.0
    lost: float = 0.0
    idle: float = 0.0
    #: Setting boxes up, and downloads before the first step.
    staging: float = 0.0
    #: Mean hours from a job's submission to its end.
    turnaround: float = 0.0
    holds: list[Hold] = field(default_factory=list)

    def add_run(self, one: Run) -> None:
        """Count a run by jobs/cost.py. A failure that is tried again counts as an interruption."""
        rent, job = one.box.rent, one.job
        hold = Hold(
            job=job.id,
            name=job.id,
            user="user",
            box=rent.name,
            cards=1,
            box_cards=1,
            from_ms=round(one.begin * 1000),
            ran_ms=round(one.ran * 1000),
            saved_ms=round(one.saved_at * 1000),
            to_ms=round(one.end * 1000),
            before=job.claims,
            after="queued" if one.fault else "succeeded",
            price=Price(per_hour=rent.cny, currency="CNY"),
        )
        self.holds.append(hold)
        spent = total([hold])
        money, lost = spent.money["CNY"], spent.lost["CNY"]
        # A start after an interruption is lost already, with its downloads.
        staging = min(one.fetched / HOUR * rent.cny, money - lost) if not job.claims else 0.0
        self.lost += lost
        self.staging += staging
        self.training += money - lost - staging

    def lose(self, progress: float, rent: Rent) -> None:
        """Count saved progress as lost: it is done again from zero, since its checkpoint is on a box that is away."""
        self.training -= progress * rent.cny
        self.lost += progress * rent.cny
