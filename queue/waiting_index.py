"""What a box asks the index of waiting jobs, and the answer (queue/lua/next_candidates.lua). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Of the server's `list-max-listpack-size`: nodes of 64 KiB, as `pi0q up` sets it. The middle of 100,000 waiting
#: messages is then found in 9 microseconds, with the server's own default of 8 KiB (-2) in 65 (measured).
LIST_NODE_SIZE = "-5"


@dataclass(frozen=True, kw_only=True)
class ScanPosition:
    """How far a box has looked through the waiting jobs that fit it; the server defines the values."""

    #: Place in the queue behind which nothing was looked at; "" before the first look, "+inf" once all was.
    place: str = ""
    #: The last change that was looked at.
    change: int = 0
    #: MiB that each GPU had free at the last look, the most first; None before the first, or where it took no job.
    free: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class FoundJob:
    """A waiting job that fits the box by its GPUs and their free VRAM."""

    id: str
    #: Its place in the queue: the smaller comes first.
    place: float
    #: Grows whenever the job must be judged anew.
    change: int


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The answer to one look."""

    #: The server's clock, milliseconds since 1970.
    now_ms: int
    #: Jobs that wait, of all needs.
    waiting: int
    position: ScanPosition
    #: Whether there are more at once.
    more: bool
    found: tuple[FoundJob, ...]
    #: Jobs that this box is to ask the preflight for, whether they fit or not.
    unchecked: tuple[str, ...]

    @classmethod
    def of(cls, answer: Sequence[Any], free: tuple[int, ...] | None, before: ScanPosition) -> Candidates:
        """Read the answer of next_candidates.lua."""
        now_ms, waiting, place, change, more, found, unchecked = answer
        # A box that takes no job looks at nothing: what it saw before stays as it was.
        position = before if free is None else ScanPosition(place=str(place), change=int(change), free=free)
        return cls(
            now_ms=int(now_ms),
            waiting=int(waiting),
            position=position,
            more=bool(more),
            found=tuple(
                FoundJob(id=str(job_id), place=float(at), change=int(number))
                for job_id, at, number in zip(found[::3], found[1::3], found[2::3], strict=True)
            ),
            unchecked=tuple(map(str, unchecked)),
        )
