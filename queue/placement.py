"""Which boxes could take a job, by their GPUs and what they announced: what a user learns at submit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pi0q.jobs.amounts import gib
from pi0q.jobs.printable import printable

#: Names of boxes that a sentence lists, and that the server answers of each kind.
NAMED, ANSWERED = 3, 20


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of one kind."""

    count: int = 0
    #: The names of the first of them, the tightest first.
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        listed = ", ".join(self.names[:NAMED])
        more = self.count - min(len(self.names), NAMED)
        return f"{listed} and {more} more" if more > 0 else listed


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The boxes that are up, by what their GPUs could do for one job. Disks are judged by the boxes themselves."""

    #: Boxes that have a free slot and enough free VRAM now.
    now: Boxes
    #: Boxes whose GPUs are large enough once they are free.
    later: Boxes
    #: Boxes that no job like this fits, however free they are.
    never: Boxes
    #: GPUs, and MiB of VRAM on each, that the job needs.
    gpus: int
    vram_mib: int
    #: VRAM of the largest card of all boxes that are up, MiB; 0 where no box has one.
    largest_card_mib: int = 0
    #: Whether boxes of an older version are up, of which the server does not know the cards.
    older_boxes: bool = False
    #: What the server knows of the job's pace and price on them, as JSON (jobs/forecast.py); "" for nothing.
    offers: str = ""

    @property
    def kinds(self) -> dict[str, Boxes]:
        """The boxes by kind."""
        return {"now": self.now, "later": self.later, "never": self.never}

    def to_json(self) -> dict[str, Any]:
        """Return what `pi0q submit --json` prints: of each kind names and, in `counts`, how many boxes there are."""
        numbers = {name: value for name, value in asdict(self).items() if name not in (*self.kinds, "offers")}
        names = {kind: boxes.names for kind, boxes in self.kinds.items()}
        return {**names, "counts": {kind: boxes.count for kind, boxes in self.kinds.items()}, **numbers}


def asked(
    needs: Iterable[Mapping[str, int]], choices: Iterable[Mapping[str, Any]], shapes: Iterable[Sequence[str]]
) -> list[list[Any]]:
    """Return the needs of jobs, the boxes that their files choose, and their shapes, as placement.lua takes them."""
    return [
        [*(need.get(name, 0) for name in ("gpus", "vram_mib", "share")), choice, list(keys)]
        for need, choice, keys in zip(needs, choices, shapes, strict=True)
    ]


def from_answer(needs: Iterable[Mapping[str, int]], answer: Sequence[Any]) -> list[Placement]:
    """Return the places of jobs with these needs from what placement.lua answered."""
    older, largest, *places = answer
    return [
        Placement(
            now=_boxes(now, names[0]),
            later=_boxes(later, names[1]),
            never=_boxes(never, names[2]),
            gpus=need.get("gpus", 0),
            vram_mib=need.get("vram_mib", 0),
            largest_card_mib=int(largest),
            older_boxes=bool(older),
            offers=str(offers),
        )
        for need, (now, later, never, *names, offers) in zip(needs, places, strict=True)
    ]


def _boxes(count: int, names: Iterable[str]) -> Boxes:
    # Whoever has the server's password names boxes.
    return Boxes(count=int(count), names=tuple(printable(str(name)) for name in names))


def sentence(place: Placement, job_id: str, choice: str = "") -> str:
    """Return one or two lines for a person; `choice`: the boxes that the job's file chooses, in words."""
    if place.now.count:
        return f"By their GPUs it fits on {place.now} now."
    if place.later.count:
        return f"It fits on {place.later} as soon as there is room: pi0q why {job_id}"
    if place.older_boxes:
        return f"Boxes of an older pi0q are up; whether it fits, they say when they look at it: pi0q why {job_id}"
    if not place.never.count:
        return "No box is up: `pi0q worker` on a GPU machine makes it one."
    wanted = f"{gib(place.vram_mib)} on {'a card' if place.gpus == 1 else f'each of {place.gpus} cards'}"
    card = place.largest_card_mib
    present = f"the largest card has {gib(card)}" if card else "none of them has a GPU"
    if choice:
        return (
            f"No box that is up can ever take it: its file asks for {choice}, and it needs {wanted}. "
            "It waits until such a box comes.\n"
            f"Fix: pi0q why {job_id}   (which boxes there are, and what keeps it from each)"
        )
    return (
        f"No box that is up can ever take it: it needs {wanted}, and {present}. It waits until a larger box comes.\n"
        f"Fix: pi0q why {job_id}   (what would make it fit)"
    )
