"""What will happen in a round: jobs and timed faults, a pure function of the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.rig.damages import DAMAGES

#: Seconds. Everything else of the boxes follows from it (queue/timing.py).
LEASE = 5.0
FENCE = 0.8 * LEASE
BOXES = ("box-a", "box-b", "box-c")
#: GiB of each box's simulated card.
CARDS = {"box-a": 80.0, "box-b": 40.0, "box-c": 24.0}
SLOTS = 2
#: Seconds a training step takes. The longest training outlives a lease: only so can two of them meet.
STEP = 0.03
#: A fault that lasts this long, seconds, must not end a training; one of LONG may.
SHORT, LONG = (0.2, 1.2), (LEASE + 0.5, LEASE + 2.0)
#: Seconds in which the faults begin.
STAGE = 3.5

#: Faults of one box: name -> (how often it is drawn, whether it lasts, what is told of it).
ON_BOX = {
    "kill_trainer": (6, False, "kill -9 of a trainer on {box}"),
    "kill_runner": (6, False, "kill -9 of a runner on {box}"),
    "kill_spare": (2, False, "kill -9 of the runner that waits on {box}"),
    "kill_both": (3, False, "kill -9 of runner and trainer on {box}"),
    "term_runner": (2, False, "SIGTERM to a runner on {box}"),
    "kill_worker": (5, True, "kill -9 of {box}'s worker, a new one after {seconds:.1f} s"),
    "term_worker": (4, True, "SIGTERM to {box}'s worker, a new one after {seconds:.1f} s"),
    "crash": (6, True, "{box}'s container ends without grace, a new one after {seconds:.1f} s"),
    "clock": (
        3,
        True,
        "{box}'s container ends without grace, a new one after {seconds:.1f} s whose clock is {note} wrong",
    ),
    "stop_trainer": (3, True, "SIGSTOP to a trainer on {box} for {seconds:.1f} s"),
    "stop_runner": (5, True, "SIGSTOP to a runner on {box} for {seconds:.1f} s"),
    "alone": (5, True, "SIGSTOP to a runner on {box} and nothing gets through to that box, both for {seconds:.1f} s"),
    "stop_worker": (3, True, "SIGSTOP to {box}'s worker for {seconds:.1f} s"),
    "stop_box": (5, True, "all of {box} stands still for {seconds:.1f} s"),
    "cut": (4, False, "every connection of {box} is reset"),
    "refuse": (4, True, "{box} is refused by the server for {seconds:.1f} s"),
    "hold": (5, True, "nothing gets through to {box} or from it for {seconds:.1f} s, then all of it does"),
    "swallow": (5, True, "{box}'s line is half-open for {seconds:.1f} s"),
    "drain": (2, True, "{box} is drained, for {seconds:.1f} s"),
    "drain_now": (3, True, "{box} is drained and hands back its jobs, for {seconds:.1f} s"),
}
#: Faults of the server, of a job, or of its message.
ELSEWHERE = {
    "kill_server": (5, True, "kill -9 of the server, started again after {seconds:.1f} s"),
    "stop_server": (4, True, "SIGSTOP to the server for {seconds:.1f} s"),
    "restore_server": (3, False, "the server comes back with its data of {note} s before"),
    "promote": (3, False, "the server dies and its replica takes its place"),
    "cancel": (4, False, "job {job} is cancelled"),
    "hold_job": (4, True, "job {job} is held for {seconds:.1f} s"),
    "save": (4, False, "a save of job {job} is wished for"),
    "lose_message": (5, False, "job {job}'s message is deleted"),
    "double_message": (3, False, "job {job}'s message comes twice"),
    "damage": (4, False, "a damaged copy of job {job}'s record ({note}) comes into the queue past submit"),
    "junk": (2, False, "rubbish lies in the queue and in {box}'s own"),
}
KINDS = ON_BOX | ELSEWHERE
#: A fault of these never lasts beyond the fence: a worker or box that is away for longer is another story.
BRIEF = {"drain", "drain_now", "hold_job"}
#: The trainer of such a run has no one who could stop it; another box begins after the lease and the wait for this one.
ALONE = (LEASE + 4.5, LEASE + 6.0)
#: What a fault may wait for besides its time: something that a job comes to.
MOMENTS = ("", "", "", "claimed", "stepping", "saving", "resumed")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job of the round; its number is its place in the plan."""

    #: grab_box, or what its trainer does: `stray`, `oom@30`, `nan@30`, `error@30`.
    name: str
    gib: float
    priority: str
    steps: int
    save_freq: int
    #: Seconds after the round's beginning at which it is submitted.
    at: float

    @property
    def fails(self) -> str:
        """oom, nan or error where its trainer is made to fail; else empty."""
        return self.name.partition("@")[0] if "@" in self.name else ""

    @property
    def fails_at(self) -> int:
        """The step at which it does; 0 where it does not."""
        return int(self.name.partition("@")[2] or 0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is done to the cluster."""

    kind: str
    #: Seconds after the round's beginning, or after the moment that it waits for.
    at: float
    box: str = ""
    #: Number of the job; -1 where it is of none.
    job: int = -1
    #: How long it lasts; 0 where it is done at once.
    seconds: float = 0.0
    #: What it waits for, one of MOMENTS, of `job`.
    moment: str = ""
    #: What else there is to say: a clock's shift, the age of data.
    note: str = ""

    def told(self) -> str:
        text = KINDS[self.kind][2].format(box=self.box, seconds=self.seconds, job=self.job, note=self.note)
        when = f"{self.at:4.1f} s" + (f" after job {self.job} is {self.moment}" if self.moment else "")
        return f"{when}: {text}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One round."""

    seed: int
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]

    def story(self) -> str:
        lines = [f"round of seed {self.seed}: lease {LEASE:g} s, fence {FENCE:g} s, boxes {', '.join(BOXES)}"]
        for number, job in enumerate(self.jobs):
            size = f"{job.gib:g} GiB" if job.gib else "no GPU"
            lines.append(
                f"  {job.at:4.1f} s: job {number} {job.name}, {job.priority}, {size}, {job.steps} steps, "
                f"saved every {job.save_freq}"
            )
        return "\n".join([*lines, *(f"  {fault.told()}" for fault in self.faults)])


def draw(seed: int, *, contained: bool = True, clocks: bool = True) -> Plan:
    """The round of this seed. Where no clock can be wrong that fault is a plain crash."""
    dice = random.Random(f"pi0q nemesis {seed}")
    jobs = tuple(_job(dice) for _ in range(dice.choice((2, 3, 3, 4, 4, 5))))
    faults = [_fault(dice, len(jobs)) for _ in range(dice.choice((1, 2, 3, 3, 4, 5, 6)))]
    if dice.random() < 0.35:
        faults.append(_second(dice, faults[-1]))
    longest = max(range(len(jobs)), key=lambda number: jobs[number].steps)
    # In a short training nobody would meet its trainer.
    faults = [replace(fault, moment="stepping", job=longest) if fault.kind == "alone" else fault for fault in faults]
    if any(fault.kind == "restore_server" for fault in faults):
        # What was submitted after the copy was made is in no one's memory but the user's.
        jobs = tuple(replace(job, at=0.0) for job in jobs)
    if not clocks:
        faults = [replace(fault, kind="crash") if fault.kind == "clock" else fault for fault in faults]
    return Plan(seed=seed, jobs=jobs, faults=tuple(sorted(faults, key=lambda fault: fault.at)))


def _job(dice: random.Random) -> Job:
    steps = dice.choice((20, 60, 100, 160, 240, 320, 400))
    fault = dice.choice(("oom", "nan", "error")) if dice.random() < 0.15 else ""
    name = f"{fault}@{dice.randint(2, steps)}" if fault else ("stray" if dice.random() < 0.2 else "grab_box")
    return Job(
        name=name,
        gib=dice.choice((0.0, 8.0, 16.0, 20.0, 30.0, 36.0, 60.0)),
        priority=dice.choice(("low", "normal", "normal", "high", "urgent")),
        steps=steps,
        save_freq=dice.choice((10, 10, 20, 40, 80)),
        at=0.0 if dice.random() < 0.7 else round(dice.uniform(0.0, STAGE), 2),
    )


def _fault(dice: random.Random, jobs: int) -> Fault:
    kind = dice.choices(list(KINDS), [often for often, _, _ in KINDS.values()])[0]
    lasts, job = KINDS[kind][1], dice.randrange(jobs)
    moment = dice.choice(MOMENTS)
    notes = {
        "clock": dice.choice(("+2h", "-2h")),
        "restore_server": f"{dice.uniform(0.3, 3.0):.1f}",
        "damage": dice.choice(list(DAMAGES)),
    }
    aimed = moment or "{job}" in KINDS[kind][2]
    return Fault(
        kind=kind,
        at=round(dice.uniform(0.0, 0.4) if moment else dice.uniform(0.2, STAGE), 2),
        box=dice.choice(BOXES) if kind in ON_BOX or kind == "junk" else "",
        job=job if aimed else -1,
        seconds=_seconds(dice, kind) if lasts else 0.0,
        moment=moment,
        note=notes.get(kind, ""),
    )


def _second(dice: random.Random, first: Fault) -> Fault:
    """Something that goes wrong while the first is being recovered from, on the same box where that had one."""
    box = first.box or dice.choice(BOXES)
    kind = dice.choice(("kill_runner", "kill_trainer", "kill_worker", "crash", "cut", "stop_runner", "kill_both"))
    at = round(first.at + first.seconds + dice.uniform(0.05, 1.5), 2)
    seconds = _seconds(dice, kind) if KINDS[kind][1] else 0.0
    return Fault(kind=kind, at=at, box=box, seconds=seconds, moment=first.moment, job=first.job)


def _seconds(dice: random.Random, kind: str) -> float:
    if kind == "alone":
        return round(dice.uniform(*ALONE), 2)
    long = kind not in BRIEF and dice.random() < 0.3
    return round(dice.uniform(*(LONG if long else SHORT)), 2)
