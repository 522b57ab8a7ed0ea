"""Whether a job fits the GPUs of a box, by numbers alone; a box claims by it and `pi0q why` explains by it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pi0q.jobs.box_choice import ANY, BoxChoice
from pi0q.jobs.printable import printable
from pi0q.jobs.record import Record
from pi0q.queue.refusals import CardsTaken, NotChosen, Refusal, TooFewGpus, TooLittleVram

#: Trainings that share one card at the most.
MOST_ON_A_CARD = 4


@dataclass(frozen=True, kw_only=True)
class CardRoom:
    """The VRAM of one GPU, MiB."""

    total_mib: int
    #: Its model, as the box announced it.
    name: str = field(default="", compare=False)
    #: Measured as free.
    measured_mib: int
    #: Measured as free and promised to no job.
    free_mib: int
    #: The jobs that it is promised to.
    jobs: tuple[str, ...] = ()
    #: Whether each of them shares its card (`resources.share`).
    shared: bool = False
    #: Who submitted the first of them; "" where nobody knows.
    user: str = ""

    def is_open(self, *, share: bool) -> bool:
        """Return whether one more training may come onto the card, whatever memory it needs."""
        return not self.jobs or (share and self.shared and len(self.jobs) < MOST_ON_A_CARD)

    @property
    def usable_mib(self) -> int:
        """Return what the training that may use most of it can have, MiB: 0 where none may come onto the card."""
        return max(0, self.free_mib) if self.is_open(share=True) else 0


@dataclass(frozen=True, kw_only=True)
class CardNeed:
    """What a job needs of a box's GPUs."""

    gpus: int
    #: On each GPU, MiB.
    vram_mib: int
    #: Whether it runs on a card with other trainings that share theirs.
    share: bool = False
    #: Which boxes and GPUs it may have.
    choice: BoxChoice = ANY


def not_chosen(need: CardNeed, box: str, cards: Sequence[CardRoom]) -> Refusal | None:
    """Return why the job's file keeps it from a box of this name and these GPUs; None if it does not."""
    choice = need.choice
    if not choice.allows_box(box):
        kept = "not_box" if BoxChoice(box=choice.box).allows_box(box) else "box"
        return NotChosen(key=kept, wanted=", ".join(getattr(choice, kept)))
    if not choice.gpu or sum(choice.allows_gpu(card.name) for card in cards) >= max(1, need.gpus):
        return None
    present = ", ".join(dict.fromkeys(card.name for card in cards)) or "no GPU"
    return NotChosen(key="gpu", wanted="|".join(choice.gpu), present=present)


def shortage(need: CardNeed, cards: Sequence[CardRoom], fault: str = "") -> Refusal | None:
    """Return what a job lacks of these GPUs; None if it fits.

    `fault`: why GPUs could not be measured.
    """
    if need.gpus == 0:
        return None
    chosen = {number: card for number, card in enumerate(cards) if need.choice.allows_gpu(card.name)}
    if len(chosen) < need.gpus:
        return TooFewGpus(needed=need.gpus, present=len(chosen), fault="" if cards else fault)
    fitting = sum(card.is_open(share=need.share) and card.free_mib >= need.vram_mib for card in chosen.values())
    if fitting >= need.gpus:
        return None
    taken = [
        (number, card.jobs[0])
        for number, card in chosen.items()
        if card.jobs and card.total_mib >= need.vram_mib and not card.is_open(share=need.share)
    ]
    if fitting + len(taken) >= need.gpus:
        return CardsTaken(needed=need.gpus, fitting=fitting, taken=tuple(taken))
    best = max(chosen.values(), key=lambda card: card.free_mib)
    left = max(0, best.free_mib)
    return TooLittleVram(
        needed_mib=need.vram_mib,
        gpus=need.gpus,
        fitting=fitting,
        free_mib=left,
        total_mib=best.total_mib,
        promised_mib=best.measured_mib - left,
    )


def needed(job: Record) -> CardNeed:
    """Return what a job needs, by which the index finds it (`class_for` in common.lua)."""
    vram_mib = job.needs.get("vram_mib", 0)
    reckoned = [found.get("vram_mib") for found in job.preflight.values() if isinstance(found, Mapping)]
    known = [mib for mib in reckoned if isinstance(mib, int) and mib > 0]
    gpus, least = job.needs.get("gpus", 0), min([vram_mib, *known])
    return CardNeed(gpus=gpus, vram_mib=least, share=shares(job), choice=job.choice)


def shares(job: Record) -> bool:
    """Return whether the job runs on a card with other trainings that share theirs."""
    return bool(job.needs.get("share"))


def announced(box: Mapping[str, str]) -> tuple[CardRoom, ...] | None:
    """Return the GPUs that a box announced; None for one that does not say what is promised, as older versions."""
    try:
        free, cards = json.loads(box.get("free_mib") or "null"), json.loads(box.get("gpus") or "[]")
        if free is None:
            return None
        # Boxes of an older version do not say who holds a card.
        holders = json.loads(box.get("holders") or "null") or [{"jobs": [], "shared": False}] * len(cards)
        return tuple(
            CardRoom(
                total_mib=int(card["total_mib"]),
                name=printable(str(card.get("name") or "")),
                measured_mib=int(card["free_mib"]),
                free_mib=int(mib),
                jobs=tuple(map(str, held["jobs"])),
                shared=bool(held["shared"]),
                user=str(held.get("user", "")),
            )
            for card, mib, held in zip(cards, free, holders, strict=True)
        )
    except (ValueError, KeyError, TypeError):
        return None
