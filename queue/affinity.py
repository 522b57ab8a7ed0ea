"""Whether another free box should take a job, since it holds what the job reads already. Pure.

The tightest box takes a job. One with cards of the same size or smaller that has many GiB of the job's weights and
dataset gets a few seconds to take it first: a download of 14 GiB costs minutes of a card, and the wait costs seconds.
A box with larger cards is never preferred: those are for jobs that need them (simulated, see benchmarks/schedule.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

#: MiB of downloads that another box must save.
WORTH_MIB = 4 * 1024
#: Seconds that it gets, from the first moment at which this box would have taken the job: until a box's next look.
WAIT_SECONDS = 8.0
#: Cards count as of one size up to this part: one maker's 80 GiB differ by a few hundred MiB.
SAME_SIZE = 1.1
#: Repositories that a box announces, and other boxes that are compared.
MOST_NAMES, MOST_BOXES = 200, 16


@dataclass(frozen=True, kw_only=True)
class WarmBox:
    """What a free box holds."""

    name: str
    #: The memory of its largest card, MiB.
    card_mib: int
    #: Repositories that are complete in its cache: owner/name, datasets/owner/name.
    warm: Collection[str]

    def missing_mib(self, reads: Mapping[str, int]) -> int:
        """Return the MiB of these repositories that it would have to download."""
        return sum(mib for name, mib in reads.items() if name not in self.warm)


@dataclass(frozen=True, kw_only=True)
class Better:
    """A box that should take the job."""

    box: str
    #: MiB that it need not download.
    saved_mib: int


def better(reads: Mapping[str, int], mine: WarmBox, others: Iterable[WarmBox]) -> Better | None:
    """Return the free box that saves the most, if that is worth a wait; None if this box should take the job.

    `reads`: MiB of each repository that the job reads, by name.
    """
    needed = mine.missing_mib(reads)
    if needed < WORTH_MIB:
        return None
    known = [box for box in others if box.name != mine.name and box.card_mib <= mine.card_mib * SAME_SIZE]
    best = min(known, key=lambda box: (box.missing_mib(reads), box.card_mib, box.name), default=None)
    saved = needed - best.missing_mib(reads) if best else 0
    return Better(box=best.name, saved_mib=saved) if best and saved >= WORTH_MIB else None


def announced(name: str, gpus: str | None, warm: str | None) -> WarmBox | None:
    """Return what a box announced, in its fields `gpus` and `warm`; None where that can't be read."""
    try:
        sizes = [int(card["total_mib"]) for card in json.loads(gpus or "[]")]
        names = frozenset(map(str, json.loads(warm or "[]")[:MOST_NAMES]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return WarmBox(name=name, card_mib=max(sizes), warm=names) if sizes else None
