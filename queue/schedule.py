"""Which waiting job comes next, which cards are kept for one that does not fit yet, and when each may start. Pure.

Boxes claim by it, `pi0q why` explains by it and benchmarks/schedule.py simulates it. The policy was chosen there:

1. Priority, then the window of WINDOW_SECONDS in which jobs were submitted: nobody is overtaken by a later window.
2. Within a window, jobs of pressed classes, the largest first. A class is pressed where the cards that its jobs fit
   have the most work of all (a fleet with one card of 96 GiB and many jobs that need it).
3. Then the shortest first: nobody waits for a day behind another's day while his hour would end.
4. With fair share, the user with the fewest cards comes first within a priority, whatever the window: each next job of
   one user counts as if those before it had started.
5. The first jobs that need several cards and find too few free have cards reserved, those that come free first. Others
   take such a card only if they are sure to end before (EASY backfill).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

#: Seconds that nobody can tell.
UNKNOWN = math.inf
#: Seconds of submission within which the order may differ from that of submission.
WINDOW_SECONDS = 3 * 3600.0
#: Jobs that may have cards reserved at a time.
MOST_RESERVATIONS = 4
#: A class is pressed whose work a card is at least this part of the most pressed one's.
PRESSED = 0.9
#: So is a job that alone takes this part of it.
LONG = 0.8
#: Priorities, the most urgent first.
URGENT, HIGH, NORMAL, LOW = range(4)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A waiting job, as far as its turn depends on it."""

    id: str
    gpus: int
    #: On each GPU.
    vram_mib: int
    rank: int = NORMAL
    #: When it was submitted, seconds of any clock; 0 for one that ran already and comes first.
    submitted: float = 0.0
    #: What orders jobs that are alike in everything else: its place in the queue.
    place: float = 0.0
    #: How long it will take, as far as anyone can tell, seconds.
    seconds: float = math.inf
    #: How long it takes at most: by its measured pace or its `time_limit`; infinite where nobody knows.
    at_most: float = math.inf
    #: Who submitted it.
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU of a box."""

    total_mib: int
    #: Seconds until it is free; 0 for one that is, infinite where nobody knows.
    busy: float = 0.0
    #: Whose job it has; "" for a free one and where nobody knows.
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class BoxCards:
    """The GPUs of one box that takes jobs."""

    name: str
    cards: tuple[Card, ...]

    def could_hold(self, job: Waiting) -> bool:
        """Return whether the job fits once enough cards are free."""
        return len(self._large_enough(job)) >= job.gpus

    def _large_enough(self, job: Waiting) -> list[int]:
        return [number for number, card in enumerate(self.cards) if card.total_mib >= job.vram_mib]

    def first_cards(self, job: Waiting, kept: Collection[int] = ()) -> tuple[float, tuple[int, ...]] | None:
        """Return the cards that come free first, and in how many seconds all of them are; None where it has too few.

        Of cards that are free together the smallest are taken. `kept`: cards that are not to be had.
        """
        able = [number for number in self._large_enough(job) if number not in kept]
        if len(able) < job.gpus:
            return None
        able.sort(key=lambda number: (self.cards[number].busy, self.cards[number].total_mib, number))
        chosen = able[: job.gpus]
        return max((self.cards[number].busy for number in chosen), default=0.0), tuple(sorted(chosen))

    @property
    def free(self) -> tuple[int, ...]:
        """Return the cards that are free now, the smallest first."""
        found = [(card.total_mib, number) for number, card in enumerate(self.cards) if card.busy <= 0]
        return tuple(number for _, number in sorted(found))

    def taken(self, cards: Collection[int], job: Waiting) -> BoxCards:
        """Return the box with these cards busy with a job."""
        taken = ((card, at in cards) for at, card in enumerate(self.cards))
        changed = (replace(card, busy=job.seconds, user=job.user) if its else card for card, its in taken)
        return replace(self, cards=tuple(changed))

    def later(self, seconds: float) -> BoxCards:
        """Return the box as it is so many seconds later."""
        left = ((card, max(0.0, card.busy - seconds)) for card in self.cards)
        cards = (Card(total_mib=card.total_mib, busy=busy, user=card.user if busy else "") for card, busy in left)
        return BoxCards(name=self.name, cards=tuple(cards))


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """Cards of a box that are kept for a job."""

    job_id: str
    box: str
    cards: tuple[int, ...]
    #: In how many seconds the job may start there; infinite where nobody knows.
    start: float


# -- whose turn it is ---------------------------------------------------------------------------------


def turn(job: Waiting, pressed: Collection[tuple[int, int]], long: float = math.inf) -> tuple[float, ...]:
    """Return what waiting jobs are sorted by.

    `pressed`: classes as `pressure` returns them, with the seconds from which on a job counts as such.
    """
    window = math.floor(job.submitted / WINDOW_SECONDS)
    if (job.gpus, job.vram_mib) in pressed or long <= job.seconds < math.inf:
        return (job.rank, window, 0, -job.gpus, -job.vram_mib, job.place)
    return (job.rank, window, 1, job.seconds, 0, job.place)


def shares(ordered: Iterable[Waiting], held: Mapping[str, int]) -> dict[str, int]:
    """Return how many cards each job's user has once it is that job's turn: those held, and of the user's jobs before.

    `ordered`: the jobs in their turns without regard to users; `held`: cards of running jobs, by user.
    """
    cards, found = Counter(held), dict[str, int]()
    for job in ordered:
        found[job.id] = cards[job.user]
        cards[job.user] += job.gpus
    return found


def held_cards(boxes: Iterable[BoxCards]) -> Counter[str]:
    """Return how many cards each user's jobs have."""
    return Counter(card.user for box in boxes for card in box.cards if card.user)


def pressure(jobs: Iterable[Waiting], boxes: Sequence[BoxCards]) -> tuple[frozenset[tuple[int, int]], float]:
    """Return the classes (GPUs, MiB) whose cards have the most work to do, and the seconds from which a job is long."""
    waiting = [job for job in jobs if job.gpus and job.seconds < math.inf]
    work, large = {}, {vram_mib: _large(boxes, vram_mib) for vram_mib in {job.vram_mib for job in waiting}}
    for gpus, vram_mib in {(job.gpus, job.vram_mib) for job in waiting}:
        if cards := [card for cards in large[vram_mib] if len(cards) >= gpus for card in cards]:
            todo = sum(job.seconds * job.gpus for job in waiting if job.gpus >= gpus and job.vram_mib >= vram_mib)
            todo += sum(card.busy for card in cards if card.busy < math.inf)
            work[gpus, vram_mib] = todo / len(cards)
    most = max([*work.values(), *(job.seconds for job in waiting)], default=0.0)
    return frozenset(one for one, seconds in work.items() if seconds >= PRESSED * most), LONG * most


def _large(boxes: Iterable[BoxCards], vram_mib: int) -> list[list[Card]]:
    return [[card for card in box.cards if card.total_mib >= vram_mib] for box in boxes]


# -- reservations ---------------------------------------------------------------------------------------


def tightness(box: BoxCards) -> tuple[int, int, str]:
    """Return what boxes are sorted by: the one with the smallest cards first."""
    return max((card.total_mib for card in box.cards), default=0), len(box.cards), box.name


def reserve(
    ordered: Iterable[Waiting], boxes: Iterable[BoxCards], refused: Collection[tuple[str, str]] = ()
) -> list[Reserved]:
    """Return which cards are kept for the first of these jobs that need several.

    A job of one card needs none: it is first where the next card comes free. `refused`: jobs and boxes that do not take
    them, for whatever reason does not pass.
    """
    found, kept = list[Reserved](), dict[str, set[int]]()
    tight = sorted(boxes, key=tightness)
    for job in ordered:
        if len(found) >= MOST_RESERVATIONS:
            break
        if job.gpus < 2:
            continue
        choices = [
            (first[0], order, box, first[1])
            for order, box in enumerate(tight)
            if (job.id, box.name) not in refused and (first := box.first_cards(job, kept.get(box.name, ()))) is not None
        ]
        if not choices:
            continue
        start, _, box, cards = min(choices, key=lambda choice: choice[:2])
        # Where it fits now it is kept its cards too, until it has taken them.
        found.append(Reserved(job_id=job.id, box=box.name, cards=cards, start=start))
        kept.setdefault(box.name, set()).update(cards)
    return found


def is_kept_from(job: Waiting, card: int, reserved: Iterable[Reserved], box: str) -> Reserved | None:
    """Return the reservation that keeps the job from this card of the box; None where it may take it."""
    for one in reserved:
        ends_before = job.at_most < math.inf and job.at_most <= one.start
        if one.box == box and card in one.cards and one.job_id != job.id and not ends_before:
            return one
    return None


# -- who starts now, and when the others may ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Start:
    """A job that starts on these cards."""

    job: Waiting
    box: str
    cards: tuple[int, ...]


def in_turn(jobs: Iterable[Waiting], boxes: Sequence[BoxCards], *, fair: bool = False) -> list[Waiting]:
    """Return the jobs in the order in which boxes want them; `fair`: with fair share between users."""
    known = list(jobs)
    pressed, long = pressure(known, boxes)
    ordered = sorted(known, key=lambda job: turn(job, pressed, long))
    if not fair:
        return ordered
    share = shares(ordered, held_cards(boxes))
    return sorted(ordered, key=lambda job: (job.rank, share[job.id]))


def starts_now(
    jobs: Iterable[Waiting],
    boxes: Sequence[BoxCards],
    refused: Collection[tuple[str, str]] = (),
    *,
    fair: bool = False,
) -> list[Start]:
    """Return the jobs that start now: each in its turn, on the tightest box, unless its cards are kept for another.

    `refused`: as in `reserve`; `fair`: as in `in_turn`.
    """
    ordered, found = in_turn(jobs, boxes, fair=fair), list[Start]()
    fleet = {box.name: box for box in sorted(boxes, key=tightness)}
    reserved = reserve(ordered, fleet.values(), refused)
    free = {name: cards for name, box in fleet.items() if (cards := box.free)}
    for job in ordered:
        if not free:
            break
        for name, cards in free.items():
            able = [card for card in cards if _may_take(job, fleet[name], card, reserved)]
            if len(able) < job.gpus or (job.id, name) in refused:
                continue
            chosen = tuple(sorted(able[: job.gpus]))
            found.append(Start(job=job, box=name, cards=chosen))
            if left := tuple(card for card in cards if card not in chosen):
                free[name] = left
            else:
                del free[name]
            break
    return found


def _may_take(job: Waiting, box: BoxCards, card: int, reserved: Iterable[Reserved]) -> bool:
    return box.cards[card].total_mib >= job.vram_mib and is_kept_from(job, card, reserved, box.name) is None


def forecast(
    jobs: Iterable[Waiting],
    boxes: Sequence[BoxCards],
    refused: Collection[tuple[str, str]] = (),
    *,
    until: str = "",
    fair: bool = False,
) -> dict[str, float]:
    """Return in how many seconds each job starts if all take as long as is thought; infinite where nobody can tell.

    Plays what the boxes will do, from one end of a job to the next; not beyond the start of the job `until`.
    `refused`: as in `reserve`; `fair`: as in `in_turn`.
    """
    left, fleet, now = {job.id: job for job in jobs}, {box.name: box for box in boxes}, 0.0
    starts = dict.fromkeys(left, math.inf)
    while left and not (until and until not in left):
        for start in starts_now(left.values(), list(fleet.values()), refused, fair=fair):
            starts[start.job.id] = now
            fleet[start.box] = fleet[start.box].taken(start.cards, start.job)
            del left[start.job.id]
        ends = [card.busy for box in fleet.values() for card in box.cards if 0 < card.busy < math.inf]
        if not ends:
            break
        now += min(ends)
        fleet = {name: box.later(min(ends)) for name, box in fleet.items()}
    return starts
