"""Simulate a month of one user, three rented boxes and twenty jobs: with pi0q, and by hand as the guide does it.

    python -m benchmarks.month [--seeds 20] [--out benchmarks/DATE-month.md]

Nothing is trained and nothing is rented: see month_model.py for what is the product's own code here.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.goodput_model import EVERY_S, FETCH_S, LEASE_S, RESTART_S, RESUME_S, SAVE_S
from benchmarks.month_model import (
    AWAY_S,
    DATASET_GIB,
    DISK_S,
    FAULTS,
    FIRST_LOOK,
    HAND_SAVES,
    JOBS,
    LAST_LOOK,
    NO_CARD,
    OOM_S,
    SETUP_S,
    STALL_S,
    Bill,
    Box,
    Fault,
    Job,
    Rent,
    Run,
    Style,
    boxes,
    run,
    trace,
)
from benchmarks.schedule import GIB, HOUR, MIB_PER_HOUR, Kind, kinds
from pi0q.ops.power import plan
from pi0q.ops.power.plan import Need, Power, RentedBox, Start
from pi0q.ops.power.state_file import Linked
from pi0q.queue.idle_policy import IdlePolicy, Phase
from pi0q.workers.idle.decision import Seen, judge, reasons

#: Prices of 2026-03 as a user's public script lists them; pi0 at the guide's batch needs the last.
RENTS = (Rent("RTX 4090 24 GB", 24, 1.98), Rent("A800 80 GB", 80, 4.98), Rent("H20 96 GB", 96, 6.98))
STYLES = (
    Style(name="by hand, looking at 9:00 and 23:00", pi0q=False, power=False, looks=14 * HOUR),
    Style(name="by hand, looking each two hours", pi0q=False, power=False),
    Style(name="by hand, looking each half hour", pi0q=False, power=False, looks=HOUR / 2),
    Style(name="pi0q, boxes switched by hand", pi0q=True, power=False),
    Style(name="pi0q, boxes switched by pi0q", pi0q=True, power=True),
)
COLUMNS: tuple[Callable[[Bill], float], ...] = (
    lambda bill: bill.paid,
    lambda bill: bill.training,
    lambda bill: bill.lost,
    lambda bill: bill.idle,
    lambda bill: bill.staging,
    lambda bill: bill.turnaround,
)
TICK = 60.0
#: As `pi0q box setup --idle-after 20min` has it.
IDLE = IdlePolicy(after=1200.0)
#: What the figures rest on, and where each is from.
ASSUMED = (
    ("prices an hour", ", ".join(f"{one.name} {one.cny} CNY" for one in RENTS), "a user's public script, 2026-03"),
    ("the same without a card", f"{NO_CARD} CNY", "a user's public note"),
    (
        "jobs, and their hours",
        f"{JOBS}; 3 h (ACT) to 12 h (pi0), log-normal",
        "a guess, as in schedule.py; alike on all cards",
    ),
    ("VRAM of a job", "2 to 90 GiB", "pi0q's own estimates; 90 GiB for the guide's own batch"),
    ("downloads", f"0, 2 or 14 GiB of weights, {DATASET_GIB} of a dataset, 20 MiB/s", "assumed, as in schedule.py"),
    (
        "the person",
        f"looks from {FIRST_LOOK}:00 to {LAST_LOOK}:00 and when submitting; switches idle boxes off then",
        "assumed",
    ),
    ("a box that is off can't be started", "a tenth of the time, 2 h at a time", "assumed"),
    ("a container starts", f"{RESTART_S:.0f} s", "assumed, as in goodput_model.py"),
    ("making an environment", f"{SETUP_S / HOUR:.0f} h a box, once", "assumed"),
    ("a box that goes away", f"{AWAY_S / HOUR:.0f} h, unpaid", "assumed"),
    (
        "a run without memory ends after",
        f"{OOM_S / 60:.0f} min, for both",
        "assumed; estimates avoid most",
    ),
    ("by hand: a checkpoint", f"each {HAND_SAVES:.0%} of the steps", "the guide: save_freq 20000 of 50000"),
    ("by hand: NaN", "trains on until somebody looks", "lerobot_train.py of 0.6.1 has no check"),
    ("by hand: a box goes away", "from zero on another that fits, else waits", "its checkpoints lie on its disk"),
    (
        "pi0q: a checkpoint",
        f"each {EVERY_S / 60:.0f} min, {SAVE_S:.0f} s each",
        "2026-11-23-full-pi0-control.md",
    ),
    (
        "pi0q: claim to first step",
        f"{RESUME_S:.0f} s; from a copy {FETCH_S:.0f} s more",
        "goodput_model.py, H100s",
    ),
    ("pi0q: a full disk", f"{DISK_S:.0f} s", "2026-11-29-goodput.md, mean of 11"),
    ("pi0q: a stalled download", f"{STALL_S:.0f} s", "default of PI0Q_STALL_SECONDS"),
    ("pi0q: a lost box", f"{LEASE_S:.0f} s until its job is queued again", "default of PI0Q_LEASE_SECONDS"),
    ("pi0q: NaN, lack of memory", "ends at once; the person retries at a look", "jobs/outcome.py"),
    ("pi0q: off when idle for", f"20 min, and {IDLE.grace / 60:.0f} of warning", "docs/boxes.md; off by default"),
)


class Month:
    """One month in one style."""

    def __init__(self, seed: int, style: Style, known: Sequence[Kind], faults: Mapping[Fault, int] = FAULTS) -> None:
        self.style, self.jobs, self.boxes = style, trace(seed, known, faults), boxes(seed, RENTS)
        self.bill, self.now = Bill(), 0.0
        self._linked = {box.rent.name: Linked(box.rent.name) for box in self.boxes}

    def simulate(self) -> Bill:
        """Return what all jobs cost until the last has ended and its box is off."""
        self._set_up()
        arrivals = {job.at // TICK for job in self.jobs}
        while any(job.ended is None for job in self.jobs) or any(box.on_since is not None for box in self.boxes):
            self._end_runs()
            # Whoever submits a job looks as well.
            if self.style.next_look(self.now) < self.now + TICK or self.now // TICK in arrivals:
                self._look()
            if self.style.pi0q:
                self._claim()
            if self.style.power:
                self._switch()
            self.now = self._next()
        done = [(job.ended or 0.0) - job.at for job in self.jobs]
        self.bill.turnaround = statistics.fmean(done) / HOUR
        return self.bill

    def _next(self) -> float:
        """Return when something can happen next; most of the time a box trains, or all are off and nothing waits."""
        soon = self.now + TICK
        submitted = min((job.at for job in self.jobs if job.at >= soon), default=math.inf) // TICK * TICK
        acts = min(self.style.next_look(soon) // TICK * TICK, submitted)
        ends = min((box.run.end for box in self.boxes if box.run), default=math.inf) // TICK * TICK
        quiet = not self._waiting() and not any(job.at <= soon < job.ready_at < math.inf for job in self.jobs)
        if not self.style.pi0q:
            return max(soon, acts)
        if quiet and all(box.on_since is None or box.run for box in self.boxes):
            return max(soon, min(acts, ends))
        return soon

    def _set_up(self) -> None:
        """Make the boxes: with pi0q in no-GPU mode, bases fetched (ops/autodl/README.md), else with a card."""
        for box in self.boxes:
            rate, fetched = box.rent.cny, 0.0
            if self.style.pi0q:
                bases = {name: gib for job in self.jobs for name, gib in job.reads.items() if name.startswith("base")}
                box.warm |= set(bases)
                rate, fetched = NO_CARD, sum(bases.values()) * GIB / MIB_PER_HOUR * HOUR
            cost = (SETUP_S + fetched) / HOUR * rate
            self.bill.staging += cost
            self.bill.paid += cost

    def _waiting(self) -> list[Job]:
        running = {box.run.job.id for box in self.boxes if box.run}
        return [job for job in self.jobs if job.ready_at <= self.now and job.ended is None and job.id not in running]

    def _end_runs(self) -> None:
        for box in self.boxes:
            if box.run and box.run.end <= self.now:
                self._end(box, box.run)

    def _end(self, box: Box, one: Run) -> None:
        job, box.run = one.job, None
        self.bill.add_run(one)
        job.claims += 1
        box.free_since = box.ready_at = one.end
        job.saved, job.home = one.saved, box
        if one.fault is None:
            job.ended = one.end
            return
        needs_person = not self.style.pi0q or one.fault in (Fault.OOM, Fault.NAN)
        job.ready_at = float("inf") if needs_person else one.end
        if one.fault is Fault.RESTART:
            box.ready_at = one.end + RESTART_S
        if one.fault is Fault.GONE:
            self._off(box, one.end)
            box.away_until = one.end + AWAY_S
            job.ready_at = job.ready_at if needs_person else one.end + LEASE_S
        if one.fault is Fault.DISK and not needs_person:
            job.ready_at = one.end + DISK_S - RESUME_S

    def _look(self) -> None:
        """Have the person look: what failed is started again; boxes are switched where they do that."""
        for job in self.jobs:
            if job.ready_at == float("inf"):
                job.ready_at = self.now
        if self.style.power:
            return
        for job in self._waiting():
            if (box := self._chosen(job)) and self._on(box) and not self.style.pi0q:
                self._start(job, box)
        wanted = [job for job in self._waiting() if self.style.pi0q]
        for box in self.boxes:
            if box.on_since is not None and not box.run and not any(box.fits(job) for job in wanted):
                self._off(box, self.now)

    def _chosen(self, job: Job) -> Box | None:
        """Return the box that the person takes for a job: the one with its checkpoint, else the cheapest that can."""
        fitting = [box for box in self.boxes if box.fits(job) and not box.run and self.now >= box.away_until]
        if job.home is not None and job.saved and not self.style.pi0q and self.now >= job.home.away_until:
            fitting = [box for box in fitting if box is job.home]
        able = [box for box in fitting if box.on_since is not None or box.has_stock(self.now)]
        return min(able, key=lambda box: box.rent.cny, default=None)

    def _claim(self) -> None:
        """Give waiting jobs to boxes that are up and free, the tightest first."""
        for job in self._waiting():
            free = [box for box in self.boxes if box.on_since is not None and not box.run and box.ready_at <= self.now]
            if fitting := [box for box in free if box.fits(job)]:
                self._start(job, min(fitting, key=lambda box: box.rent.gib))

    def _switch(self) -> None:
        """Switch boxes as pi0q does: on by plan.starts, off when idle."""
        waiting = self._waiting()
        for act in plan.starts(
            map(self._need, waiting), list(map(self._rented, self.boxes)), balance=None, paused=self._paused()
        ):
            if isinstance(act, Start):
                box = next(box for box in self.boxes if box.rent.name == act.box.box)
                if not self._on(box):
                    self._linked[box.rent.name].fail(round(self.now * 1000))
        for box in self.boxes:
            if box.on_since is not None and self._is_to_leave(box, waiting):
                self._off(box, self.now)

    def _paused(self) -> set[str]:
        away = {box.rent.name for box in self.boxes if self.now < box.away_until}
        return away | {name for name, one in self._linked.items() if one.not_before_ms > self.now * 1000}

    def _need(self, job: Job) -> Need:
        left = (job.hours - job.saved) * HOUR
        return Need(job=job.id, gpus=1, vram_mib=job.vram_mib, waited_seconds=self.now - job.ready_at, seconds=left)

    def _rented(self, box: Box) -> RentedBox:
        return RentedBox(
            box=box.rent.name,
            instance=box.rent.name,
            power=Power.OFF if box.on_since is None else Power.ON,
            cards_mib=(box.rent.card_mib,),
            is_up=box.on_since is not None and box.ready_at <= self.now,
            price=box.rent.cny,
            off_ms=None,
        )

    def _is_to_leave(self, box: Box, waiting: Sequence[Job]) -> bool:
        """Return what the box decides by itself, as its agent does; checkpoints are copied, nobody is logged in."""
        seen = Seen(
            jobs=[box.run.job.id] if box.run else [],
            waiting=[job.id for job in waiting if box.fits(job)],
        )
        idle, verdict = judge(box.idle, reasons(seen, IDLE), self.now, IDLE, gap=2 * TICK)
        box.idle = idle
        return verdict.phase is Phase.OFF

    def _on(self, box: Box) -> bool:
        """Switch a box on, if it is not; return whether it is."""
        if box.on_since is None:
            if not box.has_stock(self.now):
                return False
            box.on_since = box.free_since = self.now
            box.ready_at = self.now + RESTART_S
            linked = self._linked[box.rent.name]
            linked.pause, linked.not_before_ms = 0.0, 0
        return True

    def _off(self, box: Box, at: float) -> None:
        assert box.on_since is not None
        self.bill.paid += (at - box.on_since) / HOUR * box.rent.cny
        self.bill.idle += (at - box.free_since) / HOUR * box.rent.cny
        box.on_since = None

    def _start(self, job: Job, box: Box) -> None:
        begin = max(self.now, box.ready_at)
        self.bill.idle += (begin - box.free_since) / HOUR * box.rent.cny
        if not self.style.pi0q and job.home not in (None, box) and job.home and job.saved:
            self.bill.lose(job.saved, job.home.rent)
            job.saved = 0.0
        box.run = run(job, box, begin, self.style)
        box.warm |= set(job.reads)


def medians(bills: Sequence[Bill], read: Callable[[Bill], float]) -> str:
    """Return `807 (474 to 1,452)`: the median of the seeds, and the least and the most."""
    values = [read(bill) for bill in bills]
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def table(bills: Mapping[str, Sequence[Bill]]) -> list[str]:
    """Return the rows of what each style paid."""
    head = "| who | paid, CNY | training | lost | idle | set-up and downloads | a job's mean hours to its end |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, found in bills.items():
        cells = [medians(found, read) for read in COLUMNS]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def markdown(bills: Mapping[str, Sequence[Bill]]) -> str:
    """Return the tables of the report."""
    rows = table(bills)
    *others, last = bills.items()
    for name, found in others:
        less = [1 - mine.paid / theirs.paid for theirs, mine in zip(found, last[1], strict=True)]
        share = f"{statistics.median(less):.0%} (by seed {min(less):.0%} to {max(less):.0%})"
        rows += ["", f"{last[0].capitalize()} costs {share} less than {name}."]
    faults = [f"| {fault.value} | {times} |" for fault, times in FAULTS.items()]
    assumed = [f"| {what} | {value} | {source} |" for what, value, source in ASSUMED]
    tables = ["", "| fault | times in the month |", "|---|---|", *faults, ""]
    return "\n".join([*rows, *tables, "| what | value | from |", "|---|---|---|", *assumed])


def simulate(seeds: int, faults: Mapping[Fault, int] = FAULTS) -> dict[str, list[Bill]]:
    """Return the bills of each style, by seed."""
    known = kinds()
    return {style.name: [Month(seed, style, known, faults).simulate() for seed in range(seeds)] for style in STYLES}


def main() -> None:
    """Simulate, and print or write the tables."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, default=20)
    asked.add_argument("--out", type=Path, help="Write the tables there.")
    chosen = asked.parse_args()
    told = "\n".join(
        [
            markdown(simulate(chosen.seeds)),
            *("", "The same months without a fault:", ""),
            *table(simulate(chosen.seeds, {})),
        ]
    )
    print(told)
    if chosen.out:
        chosen.out.write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
