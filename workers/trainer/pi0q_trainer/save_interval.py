"""When the next save is due: by the clock, as far as its cost allows, or because one was requested."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

#: the part of the time that saves by the clock may take; jobs/estimates/save_cost.py has the same number
SHARE = 0.02
#: saves whose mean is the cost: one that met a busy disk is not the rule
REMEMBERED = 5


class SaveCost:
    """Seconds by which a save holds the training up, measured; `first` is what earlier runs of the job measured."""

    def __init__(self, first: float = 0.0) -> None:
        self.seen = deque([first] if first > 0 else [], maxlen=REMEMBERED)

    def add(self, seconds: float) -> None:
        self.seen.append(seconds)

    def mean(self) -> float:
        return sum(self.seen) / len(self.seen) if self.seen else 0.0

    def interval(self, every: float) -> float:
        """Return the seconds from the end of a save to the next one by the clock."""
        return every if math.isinf(every) else max(every, self.mean() * (1 - SHARE) / SHARE)


class Schedule:
    """When a save is due, and which requests it answers."""

    def __init__(self, every_s: float = math.inf, cost_s: float = 0.0) -> None:
        self.every_s = every_s
        self.cost = SaveCost(cost_s)
        self.ended_at = self.began_at = time.monotonic()
        #: how many saves were requested, and how many of the requests a save has answered
        self.requests = self.answered = 0
        #: whether LeRobot was told to save at the end of this step
        self.told = False
        #: LeRobot's own steps between two saves
        self.frequency: Any = None

    def restart_clock(self) -> None:
        self.ended_at = time.monotonic()

    def request(self) -> None:
        self.requests += 1

    def due(self) -> bool:
        by_clock = time.monotonic() - self.ended_at >= self.cost.interval(self.every_s)
        return by_clock or self.requests > self.answered

    def begin(self) -> None:
        self.began_at = time.monotonic()

    def end(self) -> dict[str, Any]:
        """Count a save that has ended; return the fields of its event."""
        self.restart_clock()
        seconds = self.ended_at - self.began_at
        self.cost.add(seconds)
        # A request that came in the middle of the save is answered by it: no step was done since.
        requests, answered = self.requests, self.answered
        self.answered = requests
        return {"seconds": round(seconds, 3), "cost_s": round(self.cost.mean(), 3), "wanted": requests > answered}
