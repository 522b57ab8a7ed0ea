"""Measure goodput: step time that survives, by paid time, of a week of 8 boxes with a fault a day each.

    PYTHON -m benchmarks.goodput --quick                   five boxes, a fault each: under two minutes
    PYTHON -m benchmarks.goodput [--seed 1] [--out FILE]   8 boxes, 7 days: about 8 minutes

PYTHON has pi0q[worker,server,dev]; run it in the repository's root, as root, on a Linux that allows namespaces and
mounts. Real: server, `pi0q worker`, agent, runner, hook, leases, links, seals, copies, restores, watchdog, disk. Faked:
GPUs, LeRobot (tests/fake_lerobot), and time. A day is played from the save before its fault to the steps after it; its
rest, in which nothing happens, is filled in by goodput_model.py, which says what is scaled and what is replaced by
constants.

    restart      SIGKILL to PID 1 of the box's container; it starts again
    partition    the box's line refuses, holds or swallows everything for 1 to 30 minutes (log-uniform)
    disk full    another tenant fills the data disk at once, to a random degree, for 10 minutes
    hang         the trainer stands still (SIGSTOP)
    damaged save a bit of the newest sealed checkpoint flips, then the container restarts
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks import goodput_model as model
from benchmarks.goodput_model import Happened, Kind, Scale
from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from tests.rig import disks, machine
from tests.rig.cluster import Box, Cluster, send
from tests.rig.disks import SmallDisk
from tests.rig.server import Server

#: Weights of a fake checkpoint in bytes, and MiB of the whole of it: as much again, twice, for the optimizer.
MODEL, SAVE_MIB, DISK_MIB = 2**23, 24, 400
#: Real seconds that another tenant's files stay.
FILLED_S = 600.0
#: Real seconds of a partition, log-uniform between the two.
PARTITION_S = (60.0, 1800.0)
#: Seconds of the simulation after which a fault counts as one from which the training did not recover.
PATIENCE = 180.0
GOAL = 0.97
WEIGHTS = "pretrained_model/model.safetensors"


class Fleet:
    """Boxes and as many jobs, one a box."""

    def __init__(self, place: Path, scale: Scale, *, boxes: int) -> None:
        self.scale, self.place, self.over = scale, place, threading.Event()
        self.server = Server.start(place / "server" / "data")
        self.cluster = Cluster(place, self.server)
        (place / "share").mkdir()
        self.disks = {name: SmallDisk(place / name, mib=DISK_MIB) for name in map("box-{}".format, range(boxes))}
        self.boxes = {name: self._box(name) for name in self.disks}
        every = {"checkpoints": {"every": None, "keep": 2, "copy_to": str(place / "share")}}
        self.jobs = [self.cluster.submit(f"job-{name}", steps=10**6, save_freq=scale.steps, gib=60, **every)
                     for name in self.boxes]  # fmt: skip

    def _box(self, name: str) -> Box:
        factor = self.scale.factor
        return self.cluster.box(
            name,
            gpus=[80.0],
            linked=True,
            contained=True,
            PI0Q_LEASE_SECONDS=str(self.scale.lease),
            PI0Q_HANG_SECONDS=str(model.HANG_S / factor),
            PI0Q_WAIT_FOR_BOX=str(600.0 / factor),
            PI0Q_COPY_SECONDS=str(600.0 / factor),
            FAKE_STEP_SECONDS=str(self.scale.step_s / factor),
            FAKE_SAVE_SECONDS=str(model.SAVE_S / factor),
            FAKE_MODEL_BYTES=str(MODEL),
            FAKE_RECORD=str(self.place / "records" / f"{name}.jsonl"),
        )

    def records(self) -> list[dict[str, Any]]:
        """What all trainers wrote of their steps."""
        found = []
        for path in (self.place / "records").glob("*.jsonl"):
            found += [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]
        return found

    def close(self) -> None:
        self.over.set()
        self.cluster.close()
        for disk in self.disks.values():
            disk.close()
        self.server.stop()


class Job(threading.Thread):
    """Drives one job through its days: waits for a save, lets a fault come, waits until the training goes on."""

    def __init__(self, fleet: Fleet, job: str, faults: list[Kind], seed: str) -> None:
        super().__init__(name=f"job {job}", daemon=True)
        self.fleet, self.job, self.faults, self.random = fleet, job, faults, random.Random(seed)
        self.happened: list[Happened] = []
        self.broken: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        self._days()
        self.done.set()
        # A container that a thread has started dies with that thread (PDEATHSIG).
        self.fleet.over.wait()

    def _days(self) -> None:
        for kind in self.faults:
            try:
                self.happened.append(self._day(kind))
            except Exception:
                self.broken.append(f"{kind.value}: {traceback.format_exc(limit=-3)}")
                return

    # -- a day ----------------------------------------------------------------------------------------

    def _day(self, kind: Kind) -> Happened:
        """Let one fault come at a random moment of the interval after a save."""
        began = self._last_step()
        two = 2 * self.fleet.scale.steps
        self._until(lambda: self._sealed() > began and self._sealed() >= two, "a sealed checkpoint")
        after = self._sealed() + self.random.randrange(1, self.fleet.scale.steps)
        self._until(lambda: self._last_step() >= after, f"step {after}")
        record, box = self._record(), self._box()
        at = time.monotonic()
        detail, clear = self._inject(kind, box)
        moved = kind in (Kind.RESTART, Kind.DAMAGE, Kind.HANG)
        self._until(
            lambda: self._goes_on(clear, record.epoch if moved else 0), f"recovery of {self.job} from {kind.value}"
        )
        return self._told(kind, at, detail, record.epoch)

    def _inject(self, kind: Kind, box: Box) -> tuple[str, float]:
        """Do it; what it was in detail, and the time from which steps are those after it."""
        match kind:
            case Kind.RESTART:
                box.crash()
                box.start()
                return "", time.monotonic()
            case Kind.DAMAGE:
                step = self._sealed()
                (path,) = box.run_dir(self.job).glob(f"output/checkpoints/*{step:06d}/{WEIGHTS}")
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)
                box.crash()
                box.start()
                return f"step {step}", time.monotonic()
            case Kind.HANG:
                send(signal.SIGSTOP, box.trainer(self.job))
                return "", time.monotonic()
            case Kind.PARTITION:
                return self._partition(box)
            case Kind.DISK:
                return self._fill(box)

    def _partition(self, box: Box) -> tuple[str, float]:
        assert box.link
        low, high = PARTITION_S
        seconds = low * (high / low) ** self.random.random()
        how = self.random.choice(["refuse", "hold", "swallow"])
        getattr(box.link, how)()
        time.sleep(seconds / self.fleet.scale.factor)
        box.link.heal()
        return f"{seconds / 60:.0f} min, {how}", time.monotonic()

    def _fill(self, box: Box) -> tuple[str, float]:
        left = self.random.randrange(0, 2 * SAVE_MIB)
        self.fleet.disks[box.name].leave(left)
        time.sleep(FILLED_S / self.fleet.scale.factor)
        self.fleet.disks[box.name].empty()
        return f"{left / SAVE_MIB:.1f} saves left", time.monotonic()

    # -- what it sees ---------------------------------------------------------------------------------

    def _until(self, true: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come\n{self._record()}\n{self._box().log[-1500:]}")
            time.sleep(0.1)

    def _record(self) -> Record:
        while True:
            try:
                return self.fleet.cluster.store.get(self.job)
            except redis.RedisError:
                time.sleep(0.1)

    def _box(self) -> Box:
        return self.fleet.boxes[str(self._record().box)]

    def _sealed(self) -> int:
        checkpoint = self._record().checkpoint
        return checkpoint.step if checkpoint else 0

    def _last_step(self) -> int:
        return self._record().step or 0

    def _goes_on(self, since: float, epoch: int) -> bool:
        """Whether the owner by the record has done steps since then, under a later claim than this."""
        record = self._record()
        if record.state is not State.RUNNING or record.epoch <= epoch:
            return False
        steps = [
            line for line in self.fleet.records()
            if line["job"] == self.job and line["e"] == "step" and line["t0"] > since and line["epoch"] == record.epoch
        ]  # fmt: skip
        # A run beyond its fence may do one more step.
        return len(steps) > 3

    def _told(self, kind: Kind, at: float, detail: str, epoch: int) -> Happened:
        """What the record and the trainers say of it."""
        record = self._record()
        lives = model.lives(self.fleet.records(), self.job)
        old = [life for life in lives if life.epoch >= epoch and life.epoch < record.epoch]
        new = next(life for life in lives if life.epoch == record.epoch)
        if not old:
            return Happened(kind=kind, at=at, detail=detail)
        offset = time.time() - time.monotonic()
        times = {
            state: [one.at_ms / 1000 - offset for one in record.history if one.state is state and one.epoch >= epoch]
            for state in (State.QUEUED, State.CLAIMED)
        }
        claimed = [one.at_ms / 1000 - offset for one in record.history if one.epoch == record.epoch][:1]
        began = [one.text for one in record.history if one.epoch == record.epoch and one.state is State.RUNNING]
        return Happened(
            kind=kind,
            at=at,
            detail=detail,
            queued=next(iter(times[State.QUEUED]), None),
            claimed=next(iter(claimed), None),
            fetched=any("brought back from its copy" in text for text in began),
            ended=tuple(old),
            following=new,
        )


def plan(boxes: int, days: int, seed: int) -> list[list[Kind]]:
    """Return the faults of each box: each kind about as often as the others, in a random order."""
    kinds = list(Kind)
    drawn = [kinds[number % len(kinds)] for number in range(boxes * days)]
    random.Random(seed).shuffle(drawn)
    return [drawn[number * days : (number + 1) * days] for number in range(boxes)]


def unplanned(fleet: Fleet, jobs: list[Job]) -> int:
    """Return how many lives ended that no fault explains."""
    records = fleet.records()
    ended = sum(max(0, len(model.lives(records, job.job)) - 1) for job in jobs)
    return ended - sum(len(happened.ended) for job in jobs for happened in job.happened)


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of a simulated week."""

    week: model.Week
    #: One for each fault.
    lines: list[str]
    #: Faults from which a training did not recover.
    broken: list[str]
    seconds: float


def play(args: argparse.Namespace, scale: Scale) -> Played:
    """Play the week."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="goodput-", dir=args.place) as name:
        place = Path(name)
        (place / "records").mkdir()
        fleet = Fleet(place, scale, boxes=args.boxes)
        try:
            faults = plan(args.boxes, args.days, args.seed)
            jobs = [Job(fleet, job, faults[n], f"{args.seed}-{n}") for n, job in enumerate(fleet.jobs)]
            for job in jobs:
                job.start()
            for job in jobs:
                job.done.wait()
            costs, lines = [], []
            for number, job in enumerate(jobs):
                for happened in job.happened:
                    cost = model.cost(happened, scale)
                    costs.append(cost)
                    told = ", ".join(f"{cause.value} {s:,.0f} s" for cause, s in cost.seconds.items() if s)
                    lines.append(f"job {number}: {happened.kind.value} {happened.detail}: {told or 'nothing lost'}")
            week = model.week(costs, unplanned=unplanned(fleet, jobs))
            broken = [text for job in jobs for text in job.broken]
            return Played(week=week, lines=lines, broken=broken, seconds=time.monotonic() - began)
        finally:
            fleet.close()


def report(args: argparse.Namespace, scale: Scale, played: Played) -> str:
    """Return the report."""
    week, lines, broken, seconds = played.week, played.lines, played.broken, played.seconds
    day = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}"
    options = f"--seed {args.seed} --boxes {args.boxes} --days {args.days} --lease {args.lease:g}"
    return f"""# Goodput, {day}

`python -m benchmarks.goodput {options}`: {os.cpu_count()} cores, Linux {platform.release()},
Python {platform.python_version()}, {seconds:.0f} s, load average at the end {os.getloadavg()[0]:.1f}.

Goal: {GOAL:.0%} of the paid time is step time that survives. Here, of {week.box_days} box-days with one fault each:
**{week.goodput:.2%}**.

{model.markdown(week)}

Stops that no fault explains: {week.unplanned}. Faults from which a training did not recover: {len(broken)}.

How to read it

- **Scaled**: lease, fence, hang, wait for the box, partitions, disk, saves and steps run {scale.factor:.0f} times
  faster than real time; a fake step stands for {scale.step_s:.0f} s of training.
- **Counted**: steps that were done again, by the trainers' own records; waits, by the server's history of each job.
- **Replaced by constants**, where a machine's speed decides: container {model.RESTART_S:.0f} s (assumed), resume
  {model.RESUME_S:.0f} s, copy brought back {model.FETCH_S:.0f} s, save {model.SAVE_S:.0f} s each
  {model.EVERY_S / 60:.0f} min (full pi0, measured on H100s). What they took here does not count.
- **Filled in**: the rest of each day, in which a training does nothing but step and save.
- **Left out**: first starts, downloads, compiling, queues without work, and boxes that do not come back.

## Each fault

{chr(10).join(f"- {line}" for line in lines)}
"""


def main() -> None:
    """Play a week, or with --quick a day of five boxes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--boxes", type=int)
    parser.add_argument("--days", type=int)
    parser.add_argument("--lease", type=float, default=6.0, help="seconds of the lease in the simulation")
    parser.add_argument("--place", type=Path, help="where the boxes' homes are made")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.boxes = args.boxes or (len(Kind) if args.quick else 8)
    args.days = args.days or (1 if args.quick else 7)
    if why := machine.refusal() or disks.no_mounts():
        sys.exit(f"no containers or no mounts here: {why}")
    scale = Scale(lease=args.lease)
    played = play(args, scale)
    text = report(args, scale, played)
    print(text)
    for one in played.broken:
        print(f"NOT RECOVERED: {one}", file=sys.stderr)
    if args.out:
        args.out.write_text(text)
    sys.exit(1 if played.broken or played.week.goodput < GOAL else 0)


if __name__ == "__main__":
    main()
