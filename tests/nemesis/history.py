"""What happened in a round, put together from what the processes wrote down. Times: CLOCK_MONOTONIC, seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.nemesis.plan import Job

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(kw_only=True)
class Known:
    """A job of the round, as its user knows it and as the queue has it in the end."""

    id: str
    number: int
    job: Job
    #: When `submit` returned; None where it never did.
    accepted: float | None
    #: Whether the queue knows it in the end.
    there: bool = True
    state: str = ""
    reason: str = ""
    attempt: int = 0
    step: int = 0
    #: When it was first seen to have ended.
    ended: float | None = None
    #: The states of its history, oldest first, each with the reason.
    history: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Act:
    """Something that a trainer did: a step or a save."""

    kind: str
    step: int
    #: When it began.
    t0: float
    #: When it was over; None where it never was.
    t1: float | None = None


@dataclass(kw_only=True)
class Life:
    """A trainer's process, from its first breath on."""

    job: str
    box: str
    epoch: int
    pid: int
    begin: float
    acts: list[Act] = field(default_factory=list)
    #: Whether it came to its last step.
    done: bool = False

    @property
    def first(self) -> int | None:
        """Its first step; None where it made none."""
        return next((act.step for act in self.acts if act.kind == "step"), None)

    @property
    def last(self) -> int | None:
        """Its last whole step."""
        return max((act.step for act in self.acts if act.kind == "step" and act.t1 is not None), default=None)


@dataclass(kw_only=True)
class Call:
    """A call of the store by a process of pi0q."""

    box: str
    pid: int
    script: str
    args: list[str]
    t0: float
    #: When it was answered; None where it never was: then it is a maybe.
    t1: float | None = None
    answer: Any = None
    #: When it failed; then too it is a maybe.
    failed: float | None = None

    @property
    def job(self) -> str:
        return self.args[0] if self.args else ""


@dataclass(kw_only=True)
class Sealed:
    """A manifest that was put in its place."""

    job: str
    box: str
    step: int
    t: float


@dataclass(kw_only=True)
class Happened:
    """A fault as it was carried out."""

    kind: str
    t0: float
    #: When it was over; the same for what has no length.
    t1: float
    box: str = ""
    #: Id of the job whose process or message it hit.
    job: str = ""
    #: restore_server: when its data were copied.
    since: float | None = None


@dataclass(kw_only=True)
class History:
    """A round."""

    seed: int
    begin: float
    jobs: list[Known] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    sealed: list[Sealed] = field(default_factory=list)
    faults: list[Happened] = field(default_factory=list)
    #: Faults that found nothing to hit.
    missed: int = 0
    #: When everything was well again, and when the last job had ended.
    healed: float = 0.0
    ended: float = 0.0
    #: Processes, promises, leases and messages that were left when all jobs had ended.
    left: list[str] = field(default_factory=list)
    #: Grandchildren without any mark that were left: (box, what).
    strays: list[tuple[str, str]] = field(default_factory=list)
    #: Workers that ended though nobody had ended them.
    died: list[str] = field(default_factory=list)
    #: Times in which this very machine gave the rig no CPU: nobody could have renewed a lease either.
    stalls: list[tuple[float, float]] = field(default_factory=list)


def read(history: History, box: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Adds what the processes of a box wrote, in the order in which they did."""
    lives: dict[tuple[int, str, int], Life] = {}
    calls: dict[tuple[int, int], Call] = {}
    for record in records:
        kind, pid, at = record["e"], record["pid"], record["t"]
        if kind == "begin":
            life = Life(job=record["job"], box=box, epoch=record["epoch"], pid=pid, begin=at)
            # A container that started anew uses its pids again.
            lives[pid, life.job, life.epoch] = life
            history.lives.append(life)
        elif kind in ("call", "answer", "fault"):
            key = (pid, record["n"])
            if kind == "call":
                calls[key] = Call(box=box, pid=pid, script=record["script"], args=record["args"], t0=at)
                history.calls.append(calls[key])
            elif kind == "answer" and key in calls:
                calls[key].t1, calls[key].answer = at, record["answer"]
            elif key in calls:
                calls[key].failed = at
        elif kind == "manifest":
            parts = record["path"].split("/")
            job = parts[parts.index("runs") + 1]
            history.sealed.append(Sealed(job=job, box=box, step=int(parts[-2]), t=at))
        elif (found := lives.get((pid, record["job"], record["epoch"]))) is not None:
            _act(found, kind, record)


def _act(life: Life, kind: str, record: Mapping[str, Any]) -> None:
    if kind == "done":
        life.done = True
    elif kind in ("stepping", "saving"):
        life.acts.append(Act(kind={"stepping": "step", "saving": "save"}[kind], step=record["step"], t0=record["t0"]))
    elif life.acts:
        life.acts[-1].t1 = record["t"]
