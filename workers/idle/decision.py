"""Decide when a box switches itself off: what it sees comes in, what keeps it on and a verdict come out. Pure.

needed -> counting (`after` seconds without a need) -> leaving (a message, then `grace` seconds) -> off

Any need that comes up, also in the last second of the grace, sets it back to the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pi0q.queue.idle_policy import LOGINS, ONLY_COPIES, UNSYNCED_RUNS, IdlePolicy, Phase, minutes

#: Names of jobs or people that one reason lists; the others are counted.
MOST_NAMED = 3
#: Post-run tasks: kind -> what they are called, and what allows to leave one that was tried in vain.
TASKS = {
    "push": ("push", "pushes", ONLY_COPIES),
    "copy": ("copy of a last checkpoint", "copies of last checkpoints", ONLY_COPIES),
    "wandb": ("WandB sync", "WandB syncs", UNSYNCED_RUNS),
    "swanlab": ("SwanLab sync", "SwanLab syncs", UNSYNCED_RUNS),
}
#: Kinds that this module does not know keep the box on, whatever is allowed.
OTHER = ("post-run task", "post-run tasks", "")


@dataclass(frozen=True, kw_only=True)
class OpenTask:
    """A post-run task that is not done."""

    kind: str
    job: str
    #: Whether it failed at least once; the next start of the box tries it again.
    tried: bool


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the box sees at one moment. What is empty keeps nothing on."""

    #: Why nobody can say whether the box is needed.
    unclear: str = ""
    #: Seconds for which a person asked it to stay on.
    kept_seconds: float = 0.0
    #: The queue's own server runs on this machine.
    has_server: bool = False
    #: Jobs that it owns, or whose runners live here.
    jobs: Sequence[str] = ()
    #: It fetches what waiting jobs read, while it has no card.
    fetches: bool = False
    #: Waiting jobs that fit it.
    waiting: Sequence[str] = ()
    tasks: Sequence[OpenTask] = ()
    #: Jobs whose newest verified checkpoint is nowhere else.
    only_copies: Sequence[str] = ()
    #: Where people are logged in: `pts/0`.
    people: Sequence[str] = ()
    #: Memory that something else than pi0q holds on its cards: `GPU 0, 12.0 GiB`.
    cards: Sequence[str] = ()


def reasons(seen: Seen, policy: IdlePolicy) -> list[str]:
    """Return what keeps the box on, in words, the most important first; nothing where nothing does."""
    found = [seen.unclear] if seen.unclear else []
    if seen.has_server:
        found.append("the queue's server runs on this machine")
    if seen.kept_seconds > 0:
        found.append(f"a person keeps it on for another {minutes(seen.kept_seconds)}")
    if seen.jobs:
        found.append(f"{_named(seen.jobs)} {'run' if seen.jobs[1:] else 'runs'} here")
    if seen.fetches:
        found.append("it fetches what waiting jobs read")
    if seen.waiting:
        found.append(f"{_named(seen.waiting)} {'wait and fit' if seen.waiting[1:] else 'waits and fits'}")
    found += _tasks(seen.tasks, policy)
    if seen.only_copies and ONLY_COPIES not in policy.allow:
        found.append(f"it has the only copy of checkpoints of {_named(seen.only_copies)}")
    if seen.people and LOGINS not in policy.allow:
        found.append(f"a person is logged in on {_named(seen.people)}")
    if seen.cards:
        found.append(f"something else uses {_named(seen.cards)}")
    return found


def _tasks(tasks: Sequence[OpenTask], policy: IdlePolicy) -> Iterator[str]:
    for kind in dict.fromkeys([*TASKS, *(task.kind for task in tasks)]):
        one, several, allowed = TASKS.get(kind, OTHER)
        here = [task for task in tasks if task.kind == kind]
        if kept := [task for task in here if not (task.tried and allowed in policy.allow)]:
            yield f"{len(kept)} {several if kept[1:] else one} pending ({_named(sorted({task.job for task in kept}))})"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, kw_only=True)
class Idle:
    """Since when a box is idle, on its own clock (seconds that only grow)."""

    since: float | None = None
    #: When its leave was announced.
    leaving_since: float | None = None
    #: When this was looked at last.
    seen_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows for the box."""

    phase: Phase
    #: Seconds until it is switched off; 0 where it is not to be.
    seconds: float = 0.0
    #: Why it is needed.
    why: Sequence[str] = ()


def judge(idle: Idle, why: Sequence[str], now: float, policy: IdlePolicy, *, gap: float) -> tuple[Idle, Verdict]:
    """Return how idle the box is now, and the verdict. `why`: the reasons that keep it on.

    After a `gap` of so many seconds between two looks nobody knows what was meanwhile: it counts from the beginning.
    The grace lasts in full from the look at which the box says that it leaves.
    """
    if why or policy.after is None:
        return Idle(seen_at=now), Verdict(phase=Phase.NEEDED, why=tuple(why))
    unseen = idle.seen_at is None or now - idle.seen_at > gap
    since = now if idle.since is None or unseen else idle.since
    leaving = None if unseen else idle.leaving_since
    if leaving is None and now - since >= policy.after:
        leaving = now
    found = Idle(since=since, leaving_since=leaving, seen_at=now)
    if leaving is None:
        return found, Verdict(phase=Phase.COUNTING, seconds=policy.after - (now - since) + policy.grace)
    left = policy.grace - (now - leaving)
    if left > 0:
        return found, Verdict(phase=Phase.LEAVING, seconds=left)
    return found, Verdict(phase=Phase.OFF)
