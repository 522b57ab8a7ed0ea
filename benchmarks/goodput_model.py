"""Goodput of a fleet, out of what happened to it: pure arithmetic, no process and no clock.

A box is paid for every second of its day. What of a day is not the step time of steps that survive is lost, and each
lost second has a cause. A day holds one fault; between faults a training steps and saves and nothing else happens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

DAY_S = 86_400.0
#: The product's own defaults, in seconds: `PI0Q_LEASE_SECONDS`, `PI0Q_HANG_SECONDS`, `checkpoints.every`.
LEASE_S, HANG_S, EVERY_S = 600.0, 600.0, 1800.0
#: A save of full pi0 (23.1 GB) holds its training up so long: 28 to 34 s (2026-11-23-full-pi0-control.md).
SAVE_S = 31.0
#: From a claim to the first step of a resumed full pi0: 83 s, of which 21 verify (2026-11-22-full-pi0-h100.md).
RESUME_S = 83.0
#: Bringing its 23.1 GB back from a copy: they took 50 to 65 s the other way (2026-11-23-full-pi0-control.md).
FETCH_S = 60.0
#: What a platform takes to start a container again: an assumption. Its worker needs 1.4 s (2026-11-22-restart.md).
RESTART_S = 60.0


class Kind(str, Enum):
    """A fault of a box's day."""

    RESTART = "restart"
    PARTITION = "partition"
    DISK = "disk full"
    HANG = "hang"
    DAMAGE = "damaged save, then restart"


class Cause(str, Enum):
    """Why a paid second was no step that survived."""

    SAVES = "saves"
    REDONE = "steps since the last checkpoint, done again"
    DOWN = "container down"
    LINK = "link away, lease and wait for the box"
    NO_ROOM = "disk without room"
    UNNOTICED = "hang not noticed yet"
    RESUMING = "resume: verify, import, load"
    UNPLANNED = "stops that no fault explains"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How the simulation's seconds stand for real ones."""

    #: Seconds of the lease in the simulation.
    lease: float
    #: Steps of the fake trainer between two saves by the clock.
    steps: int = 60

    @property
    def factor(self) -> float:
        """Real seconds in one second of the simulation, for everything that follows from lease, hang and save times."""
        return LEASE_S / self.lease

    @property
    def step_s(self) -> float:
        """Real seconds of training that one fake step stands for."""
        return EVERY_S / self.steps


@dataclass(frozen=True, kw_only=True)
class Life:
    """One trainer's life, from its own records; times by one monotonic clock."""

    epoch: int
    first_step: int
    last_step: int
    began: float
    ended: float
    #: Steps after which it saved.
    saves: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Happened:
    """One fault and what the queue's record says of it; times by the same clock, None where it interrupted nothing."""

    kind: Kind
    at: float
    detail: str = ""
    #: When the job was back in the queue, and when a box claimed it again.
    queued: float | None = None
    claimed: float | None = None
    #: Whether its checkpoint came back from a copy.
    fetched: bool = False
    #: Lives that ended between this fault and the training's going on.
    ended: Sequence[Life] = ()
    following: Life | None = None
    #: Whether the training went on at all.
    recovered: bool = True


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one fault cost, seconds by cause."""

    kind: Kind
    detail: str
    seconds: Mapping[Cause, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def lives(records: Iterable[Mapping[str, object]], job: str) -> list[Life]:
    """Return the lives of a job's trainers in turn, out of the lines that each wrote of its steps and saves."""
    found: dict[tuple[int, int], list[Mapping[str, object]]] = defaultdict(list)
    for line in records:
        if line.get("job") == job and line["e"] in ("step", "saved"):
            found[_int(line["epoch"]), _int(line["pid"])].append(line)
    made = []
    for (epoch, _), lines in found.items():
        steps = [line for line in lines if line["e"] == "step"]
        if steps:
            made.append(
                Life(
                    epoch=epoch,
                    first_step=_int(steps[0]["step"]),
                    last_step=_int(steps[-1]["step"]),
                    began=_float(steps[0]["t0"]),
                    ended=_float(lines[-1]["t"]),
                    saves=tuple(_int(line["step"]) for line in lines if line["e"] == "saved"),
                )
            )
    return sorted(made, key=lambda life: life.began)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _float(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def cost(happened: Happened, scale: Scale) -> Cost:
    """Return what a fault cost. What a machine's speed decides is replaced by constants measured on real GPUs.

    Steps that were done again count by the trainers' own records. Times that follow from lease and disk are those of
    the simulation times its factor. Container, verifying, imports and loading are RESTART_S, RESUME_S, FETCH_S.
    """
    before, after, seconds = happened.ended, happened.following, dict[Cause, float]()
    if not before or after is None:
        return Cost(kind=happened.kind, detail=happened.detail, seconds={})
    redone = max(life.last_step for life in before) - (after.first_step - 1)
    # A further life between the two was begun in vain.
    begun = len(before)
    seconds[Cause.REDONE] = max(0, redone) * scale.step_s
    seconds[Cause.SAVES] = sum(step % scale.steps != 0 for life in before for step in life.saves) * SAVE_S
    seconds[Cause.RESUMING] = begun * RESUME_S + (FETCH_S if happened.fetched else 0)
    last = before[-1].ended
    queued, claimed = happened.queued or last, happened.claimed or last
    match happened.kind:
        case Kind.RESTART | Kind.DAMAGE:
            seconds[Cause.DOWN] = RESTART_S
        case Kind.PARTITION:
            seconds[Cause.LINK] = max(0.0, claimed - last) * scale.factor
        case Kind.DISK:
            seconds[Cause.NO_ROOM] = max(0.0, claimed - queued) * scale.factor + max(0.0, queued - last)
        case Kind.HANG:
            # The rest is the time that the run takes to end the trainer and to be claimed: it is not scaled.
            hang = HANG_S / scale.factor
            seconds[Cause.UNNOTICED] = HANG_S + max(0.0, claimed - last - hang)
    return Cost(kind=happened.kind, detail=happened.detail, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Week:
    """What a fleet was paid for and what came of it."""

    #: One fault each.
    box_days: int
    costs: Sequence[Cost]
    #: Stops that no fault explains.
    unplanned: int = 0
    lost: Mapping[Cause, float] = field(default_factory=dict)

    @property
    def paid(self) -> float:
        return self.box_days * DAY_S

    @property
    def goodput(self) -> float:
        """Step time that survives, by paid time."""
        return 1 - sum(self.lost.values()) / self.paid


def week(costs: Sequence[Cost], *, unplanned: int = 0, every: float = EVERY_S, save: float = SAVE_S) -> Week:
    """Return a fleet's week: a day for each of these faults, the rest of it stepping and saving by the clock.

    A stop that no fault explains counts as half an interval done again and a resume.
    """
    lost: dict[Cause, float] = defaultdict(float)
    for one in costs:
        for cause, seconds in one.seconds.items():
            lost[cause] += seconds
        rest = max(0.0, DAY_S - one.total)
        lost[Cause.SAVES] += rest * save / (every + save)
    lost[Cause.UNPLANNED] = unplanned * (every / 2 + RESUME_S)
    return Week(box_days=len(costs), costs=costs, unplanned=unplanned, lost=dict(lost))


def markdown(week: Week) -> str:
    """Return the tables of a report."""
    rows = [f"| {cause.value} | {s:,.0f} | {s / week.paid:.2%} |" for cause, s in _sorted(week.lost)]
    table = ["| lost to | seconds | of paid time |", "|---|---|---|", *rows]
    total = sum(week.lost.values())
    table.append(f"| **all** | **{total:,.0f}** | **{total / week.paid:.2%}** |")
    kinds = ["| fault | times | interrupted | lost s: min | median | max | mean | steps done again, mean s |"]
    kinds.append("|---|---|---|---|---|---|---|---|")
    for kind in Kind:
        of_kind = [one for one in week.costs if one.kind is kind]
        if of_kind:
            totals = sorted(one.total for one in of_kind)
            redone = sum(one.seconds.get(Cause.REDONE, 0.0) for one in of_kind) / len(of_kind)
            numbers = (totals[0], totals[len(totals) // 2], totals[-1], sum(totals) / len(totals), redone)
            stopped = sum(bool(one.seconds) for one in of_kind)
            cells = " | ".join(f"{number:,.0f}" for number in numbers)
            kinds.append(f"| {kind.value} | {len(of_kind)} | {stopped} | {cells} |")
    return "\n".join([*table, "", *kinds])


def _sorted(lost: Mapping[Cause, float]) -> list[tuple[Cause, float]]:
    return sorted(lost.items(), key=lambda item: -item[1])
