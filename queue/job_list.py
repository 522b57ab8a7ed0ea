"""Which jobs a list shows, and in which order: running, then the queue as boxes claim it, held, ended. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from pi0q.jobs.errors import BadRecord, UsageError
from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED, OWNED, State

#: What `Record.label` makes of the state `waiting`: held by a user; for another job or a time; a sweep with trials.
_NOT_QUEUED = frozenset({"held", "waiting", "sweep"})
#: Words of `--state` that stand for several labels of jobs.
GROUPS: Mapping[str, frozenset[str]] = {
    "active": frozenset(state.label for state in OWNED),
    "live": frozenset(state.label for state in set(State) - ENDED) | _NOT_QUEUED,
    "ended": frozenset(state.label for state in ENDED),
}
#: All words of a job's state that people read.
_LABELS = GROUPS["live"] | GROUPS["ended"]
#: Seconds of a unit of `--since`.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SINCE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(s|sec|m|min|h|d|w|seconds?|minutes?|hours?|days?|weeks?)")
#: Position of jobs that boxes work at, that wait in the queue, that are held, and that ended.
_RUNNING, _QUEUED, _HELD, _ENDED = range(4)
#: Urgency of a job's priority; the most urgent first.
_URGENCY = {"urgent": 0, "high": 1, "normal": 2, "low": 3}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many jobs there are on the server."""

    live: int = 0
    ended: int = 0
    #: Of those that live: owned by a box, and in the queue.
    active: int = 0
    queued: int = 0
    #: That wait for another job or a time, and that nobody holds.
    waiting: int = 0

    @property
    def held(self) -> int:
        """Return how many jobs are held."""
        return max(0, self.live - self.active - self.queued - self.waiting)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some jobs in the order of a list, and how many there are in all."""

    jobs: tuple[Record, ...]
    counts: Counts
    #: The server's clock, milliseconds since 1970.
    now_ms: int
    #: Jobs whose records cannot be read.
    broken: tuple[BadRecord, ...] = ()
    #: Places in the queue, 0 for the job that is next; jobs far behind have none.
    places: Mapping[str, int] = field(default_factory=dict)
    #: Seconds until a queued job may start, by the ETAs of running jobs; none of whom nobody can tell.
    starts: Mapping[str, float] = field(default_factory=dict)
    #: Trials that run, by the id of their sweep.
    running_trials: Mapping[str, int] = field(default_factory=dict)
    #: Trials that stand behind the line of their sweep.
    folded: int = 0
    #: Whether jobs were chosen from all of them, so that none counts as left out.
    chosen: bool = False

    @property
    def left_out(self) -> int:
        """Return how many jobs the page does not show; 0 where a user chose."""
        told = len(self.jobs) + len(self.broken) + self.folded
        return 0 if self.chosen else max(0, self.counts.live + self.counts.ended - told)

    def narrowed(self, selection: Selection, *, sort: str | None, number: int | None) -> Page:
        """Return the page with the jobs that were selected, in the order `sort` (one of SORTS), the first `number`."""
        if selection.selects_all and sort is None and number is None:
            return self
        jobs = [job for job in self.jobs if selection.matches(job)]
        jobs = sorted_by(jobs, sort) if sort else jobs
        broken = self.broken if selection.selects_all and number is None else ()
        return replace(self, jobs=tuple(jobs[:number]), broken=broken, chosen=True)


def display_order(jobs: Iterable[Record], places: Mapping[str, int]) -> list[Record]:
    """Return jobs as a list shows them: running, queued by place, held, then the newest end first."""

    def position(job: Record) -> tuple[int, float, int, str]:
        if job.state in OWNED:
            return _RUNNING, 0, job.created_ms, job.id
        if job.state is State.QUEUED:
            behind = len(places) + _URGENCY.get(job.priority, 2)
            return _QUEUED, places.get(job.id, behind), job.queued_ms or job.created_ms, job.id
        if job.state in ENDED:
            return _ENDED, 0, -(job.ended_ms or 0), job.id
        return _HELD, 0, job.created_ms, job.id

    return sorted(jobs, key=position)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which jobs a user wants to see; nothing set selects all."""

    #: States as `Record.label` calls them; empty for all.
    states: frozenset[str] = frozenset()
    #: Shell patterns (`*`, `?`, `[…]`) for the name of the box, of the job, and of the submitter; "" for all.
    box: str = ""
    name: str = ""
    user: str = ""
    #: Submitted, ended or changed at or after this time, milliseconds since 1970; 0 for any time.
    since_ms: int = 0

    @property
    def selects_all(self) -> bool:
        """Return whether every job matches."""
        return self == Selection()

    @property
    def wants_ended(self) -> bool:
        """Return whether an ended job can match."""
        return not self.states or bool(self.states & GROUPS["ended"])

    def matches(self, job: Record) -> bool:
        """Return whether the job is one that the user wants to see."""
        return (
            (not self.states or job.label in self.states)
            and _fits(self.box, job.box or "")
            and _fits(self.name, job.name)
            and (_fits(self.user, job.submitter) or _fits(self.user, job.submitter.partition("@")[0]))
            and max(job.created_ms, job.updated_ms, job.ended_ms or 0) >= self.since_ms
        )


def _fits(pattern: str, text: str) -> bool:
    return not pattern or fnmatchcase(text, pattern)


def parse_states(text: str) -> frozenset[str]:
    """Read `running,queued` or a word of GROUPS. Raises UsageError that names the words there are."""
    found: set[str] = set()
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        if word in GROUPS:
            found |= GROUPS[word]
        elif word in _LABELS:
            found.add(word)
        else:
            order = dict.fromkeys([*(state.label for state in State), *sorted(_NOT_QUEUED), *GROUPS])
            words = ", ".join(order)
            raise UsageError(f"--state {word!r} is no state. Nothing was changed.\nFix: use some of {words}")
    return frozenset(found)


def parse_since(text: str, now_ms: int) -> int:
    """Return the time that `2h`, `30min` or `3d` ago was, milliseconds since 1970. Raises UsageError otherwise."""
    match = _SINCE.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(
            f"--since {text!r} is no duration. Nothing was changed.\nFix: write it like 30min, 2h, 3d or 1w"
        )
    return max(0, round(now_ms - float(match[1]) * _UNITS[match[2][0]] * 1000))


_SORTS: Mapping[str, Callable[[Record], tuple[float, str]]] = {
    "name": lambda job: (0, job.name),
    "submitted": lambda job: (job.created_ms, job.id),
    "ended": lambda job: (-(job.ended_ms or 0), job.id),
    "loss": lambda job: (float("inf") if job.loss is None else job.loss, job.id),
    "left": lambda job: (float("inf") if job.eta_seconds is None else job.eta_seconds, job.id),
}
#: What `--sort` takes.
SORTS = tuple(_SORTS)


def sorted_by(jobs: Sequence[Record], key: str) -> list[Record]:
    """Return jobs in the order of one of SORTS; those without such a value come last."""
    return sorted(jobs, key=_SORTS[key])
