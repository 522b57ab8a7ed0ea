"""Decide which switched-off boxes to start for the jobs that wait, and what to warn of. Pure.

AutoDL releases a container 15 days after it was switched off, with its disks (AutoDL's console says so).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

#: Seconds that a job waits before a box is started for it: a box that is up may take it meanwhile.
START_AFTER = 120.0
#: Hours that a job of unknown length is reckoned with, and the hours that each start costs besides the training.
UNKNOWN_HOURS, START_HOURS = 1.0, 0.25
DAY_MS = 24 * 3600 * 1000
#: Days after which a container that is off is released, and after which that is told.
RELEASED_AFTER, WARNED_AFTER = 15, 12


class Power(str, Enum):
    """What a rented container does."""

    OFF = "off"
    #: On, or about to be.
    ON = "on"
    #: Being created, released or saved: nothing may be asked of it.
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Need:
    """A job that waits."""

    job: str
    gpus: int
    #: On each GPU, MiB.
    vram_mib: int
    waited_seconds: float
    #: Seconds that its training takes; None where nobody can tell.
    seconds: float | None

    @property
    def hours(self) -> float:
        """Return the hours that a box is paid for when it does this job alone."""
        return START_HOURS + (UNKNOWN_HOURS if self.seconds is None else self.seconds / 3600)


@dataclass(frozen=True, kw_only=True)
class RentedBox:
    """A box that is a container of the user's account."""

    box: str
    #: The container's id at AutoDL: `pro-…`.
    instance: str
    power: Power
    #: Total memory of each of its cards, MiB, as the box announced it last.
    cards_mib: tuple[int, ...]
    #: Whether its worker is heard of now.
    is_up: bool
    #: CNY an hour; None where AutoDL did not say.
    price: float | None
    #: When it was switched off, milliseconds since 1970; None for one that is on.
    off_ms: int | None

    def fits(self, need: Need) -> bool:
        """Return whether the job fits the cards of the empty box."""
        return sum(mib >= need.vram_mib for mib in self.cards_mib) >= need.gpus


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start this box for this job."""

    box: RentedBox
    need: Need


@dataclass(frozen=True, kw_only=True)
class TooPoor:
    """The account's balance does not cover the job on the cheapest box that fits."""

    box: RentedBox
    need: Need
    cost: float
    balance: float


@dataclass(frozen=True, kw_only=True)
class ReleaseSoon:
    """A box that is off is released, with its disks, in so many days."""

    box: RentedBox
    days_left: int


def starts(
    needs: Iterable[Need], boxes: Sequence[RentedBox], *, balance: float | None, paused: Collection[str]
) -> list[Start | TooPoor]:
    """Return what to start for the jobs in queue order, one box a job.

    `balance`: CNY in the account, None where AutoDL did not say: nothing is refused then. `paused`: boxes that could
    not be started a moment ago. A box that is being started serves one job that fits it.
    """
    free = [box for box in boxes if box.power is Power.OFF and box.box not in paused]
    coming = [box for box in boxes if box.power is Power.ON and not box.is_up]
    found: list[Start | TooPoor] = []
    left = balance
    for need in needs:
        if need.gpus == 0 or need.waited_seconds < START_AFTER:
            continue
        if serving := next((box for box in coming if box.fits(need)), None):
            coming.remove(serving)
            continue
        fitting = sorted((box for box in free if box.fits(need)), key=_cheapest_first)
        if not fitting:
            continue
        chosen = fitting[0]
        cost = (chosen.price or 0.0) * need.hours
        if left is not None and cost > left:
            found.append(TooPoor(box=chosen, need=need, cost=cost, balance=left))
            continue
        left = None if left is None else left - cost
        free.remove(chosen)
        found.append(Start(box=chosen, need=need))
    return found


def _cheapest_first(box: RentedBox) -> tuple[bool, float, int, str]:
    """Sort by price, unknown prices last, then by how few cards it has."""
    return box.price is None, box.price or 0.0, len(box.cards_mib), box.box


def releases(boxes: Iterable[RentedBox], now_ms: int) -> list[ReleaseSoon]:
    """Return the boxes that have been off for twelve days or more, and the days that they have left."""
    found = []
    for box in boxes:
        days = (now_ms - box.off_ms) // DAY_MS if box.power is Power.OFF and box.off_ms else 0
        if days >= WARNED_AFTER:
            found.append(ReleaseSoon(box=box, days_left=max(0, RELEASED_AFTER - days)))
    return found
