"""Cards that are kept for a waiting job, as they lie on the server (queue/lua/reserve.lua). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.record_codecs import BOX, GPUS, MAX_INT, json_of, mapping, whole
from pi0q.queue.schedule import UNKNOWN, Reserved

#: Users whose cards a plan tells.
MOST_USERS = 500


@dataclass(frozen=True, kw_only=True)
class CardReservation:
    """Cards of a box that are kept for a job; times are milliseconds since 1970 on the server's clock."""

    job_id: str
    box: str
    #: UUIDs.
    cards: tuple[str, ...]
    #: When the job may start; None where nobody knows.
    from_ms: int | None
    expires_ms: int

    def seconds(self, now_ms: int) -> float:
        """Return in how many seconds the job may start; UNKNOWN where nobody knows."""
        return UNKNOWN if self.from_ms is None else max(0.0, (self.from_ms - now_ms) / 1000)

    def on(self, box: str, cards: Sequence[str], now_ms: int) -> Reserved | None:
        """Return what is kept on a box whose cards have these UUIDs; None if nothing."""
        kept = tuple(number for number, card in enumerate(cards) if card in self.cards)
        return Reserved(job_id=self.job_id, box=box, cards=kept, start=self.seconds(now_ms)) if kept else None

    def to_json(self) -> list[Any]:
        """Return the reservation as reserve.lua reads it."""
        start = -1 if self.from_ms is None else self.from_ms
        return [self.job_id, self.box, list(self.cards), start, self.expires_ms]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is reserved for whom, and which classes of jobs come first."""

    #: The server's clock, milliseconds since 1970.
    now_ms: int = 0
    #: How often that changed; a new plan names it.
    changes: int = 0
    #: Whether the box that asked is to make a new plan.
    due: bool = False
    reservations: tuple[CardReservation, ...] = ()
    #: Classes of jobs (GPUs, MiB of VRAM on each) whose cards have the most work.
    pressed: frozenset[tuple[int, int]] = frozenset()
    #: Seconds from which a job counts as such, too.
    long: float = UNKNOWN
    #: Cards of running jobs, by user; None without fair share.
    held: Mapping[str, int] | None = None

    @property
    def fair(self) -> bool:
        """Whether users share fairly."""
        return self.held is not None

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Plan:
        """Read the answer of reservations.lua; what cannot be is left out."""
        now_ms, changes, due, pressed, found = answer
        classes, long, held = _pressed(str(pressed))
        pairs = zip(found[::2], found[1::2], strict=True)
        return cls(
            now_ms=int(now_ms),
            changes=int(changes),
            due=bool(due),
            reservations=tuple(one for job_id, text in pairs if (one := _reservation(str(job_id), str(text)))),
            pressed=classes,
            long=long,
            held=held,
        )

    def of_job(self, job_id: str) -> CardReservation | None:
        """Return what is reserved for a job; None if nothing."""
        return next((one for one in self.reservations if one.job_id == job_id), None)


def pressed_json(classes: frozenset[tuple[int, int]], long: float, held: Mapping[str, int] | None = None) -> str:
    """Return the text of the pressed classes and of the cards that users hold, as `Plan.of` reads it."""
    found: dict[str, Any] = {"classes": sorted(classes), "long": None if long == UNKNOWN else round(long)}
    if held is not None:
        # Of more users those with the most cards: others count as if they had none.
        found["held"] = dict(sorted(held.items(), key=lambda one: -one[1])[:MOST_USERS])
    return json.dumps(found)


def _reservation(job_id: str, text: str) -> CardReservation | None:
    try:
        found = mapping(json_of(text))
        start = int(found["from"])
        if not is_job_id(job_id) or start > MAX_INT:
            return None
        return CardReservation(
            job_id=job_id,
            box=BOX.read(found["box"]),
            cards=GPUS.read(json.dumps(found["cards"])),
            from_ms=start if start >= 0 else None,
            expires_ms=whole(int(found["expires"])),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _pressed(text: str) -> tuple[frozenset[tuple[int, int]], float, Mapping[str, int] | None]:
    try:
        found: Mapping[str, Any] = mapping(json_of(text or "{}"))
        classes = frozenset((whole(gpus), whole(vram_mib)) for gpus, vram_mib in found.get("classes", ()))
        long = found.get("long")
        held = {str(user): whole(cards) for user, cards in mapping(found["held"]).items()} if "held" in found else None
        return classes, UNKNOWN if long is None else float(whole(long)), held
    except (ValueError, TypeError, RecursionError):
        return frozenset(), UNKNOWN, None
