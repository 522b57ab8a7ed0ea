"""What a save costs, and how soon the next one by the clock pays."""

from __future__ import annotations

import math
from collections import deque

#: the part of the time that saves by the clock may take; jobs/saving.py has the same number
SHARE = 0.02
#: saves whose mean is the cost: one that met a busy disk is not the rule
REMEMBERED = 5


class Cost:
    """Seconds by which a save holds the training up, measured; `first` is what earlier runs of the job measured."""

    def __init__(self, first: float = 0.0) -> None:
        self.seen = deque([first] if first > 0 else [], maxlen=REMEMBERED)

    def add(self, seconds: float) -> None:
        self.seen.append(seconds)

    def mean(self) -> float:
        return sum(self.seen) / len(self.seen) if self.seen else 0.0

    def interval(self, every: float) -> float:
        """Seconds from the end of a save to the next one by the clock."""
        return every if math.isinf(every) else max(every, self.mean() * (1 - SHARE) / SHARE)
