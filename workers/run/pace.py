"""How fast a training goes, and how long it will still take. Pure: times come from the hook's events."""

from __future__ import annotations

import bisect
import math
import statistics
from collections import deque
from dataclasses import dataclass

#: Lengths of steps that are remembered.
WINDOW = 1000
#: So much longer than the median one a step is no step like the others: a compile, an evaluation, a frozen box.
ODD = 8.0
#: So often such steps must have come, between ordinary ones, before more of them are expected.
RECURRING = 3
#: Steps behind a start whose length says little about the others, as far as there are more.
WARM_UP = 3
#: Saves by time take no larger part of the time than this, see pi0q_trainer.
SAVE_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a training saves and ends."""

    #: Its last step; 0 if it is unknown.
    steps: int
    #: Steps between saves; 0 for none but the last one.
    save_freq: int = 0
    #: Seconds after which it saves at the latest; None for never.
    every_seconds: float | None = None

    def saves_left(self, step: int, *, pace: float, cost: float) -> int:
        """Saves after `step`, the last one included, at `pace` seconds a step and `cost` seconds a save."""
        if step >= self.steps:
            return 0
        every = max(self.every_seconds or math.inf, cost * (1 - SAVE_SHARE) / SAVE_SHARE)

        def within(steps: int) -> int:
            return max(1, math.ceil(steps * pace / every)) if steps else 0

        if self.save_freq <= 0:
            return within(self.steps - step)
        first = min(self.steps, (step // self.save_freq + 1) * self.save_freq)
        whole, rest = divmod(self.steps - first, self.save_freq)
        return within(first - step) + whole * within(self.save_freq) + within(rest)


class Pace:
    """Fed with the end of each step and save; times are seconds of one clock."""

    def __init__(self, *, seconds: float | None = None, save_seconds: float | None = None) -> None:
        """`seconds` a step and `save_seconds` a save as the job's last run had them, until it is known better."""
        self._before = seconds
        self._saves: deque[float] = deque([save_seconds] if save_seconds else [], maxlen=3)
        self._clear()

    def _clear(self) -> None:
        #: Seconds a step, and how many steps took so long; the same lengths in their order.
        self._lengths: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._sorted: list[float] = []
        #: Odd steps: how many others had come before, and their seconds; those in a row are one.
        self._odd: deque[tuple[int, float]] = deque(maxlen=100)
        self._seen, self._was_odd = 0, False
        self._cold = WARM_UP
        self._last: tuple[int, float] | None = None

    def begin(self) -> None:
        """Another life of the trainer: its steps may be of another speed, and the first ones are slow."""
        self._before = self.seconds()
        self._clear()

    def pause(self) -> None:
        """Something that is no step comes: the next step is not measured from the last one."""
        self._last = None

    def saved(self, seconds: float) -> None:
        """A save held the training up for so long."""
        self._saves.append(seconds)

    def step(self, step: int, at: float) -> None:
        """A step is done; those between it and the last one that was heard of count as equally long."""
        last, self._last = self._last, (step, at)
        if last is None or step <= last[0] or at <= last[1]:
            return
        if self._cold == 0:
            self._lengths.clear()
            self._sorted.clear()
        self._cold -= 1
        if len(self._lengths) == WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._lengths[0][0])]
        count = step - last[0]
        length = (at - last[1]) / count
        self._lengths.append((length, count))
        bisect.insort(self._sorted, length)
        self._sort_out(length, count)

    def _limit(self) -> float:
        return ODD * self._sorted[len(self._sorted) // 2]

    def _sort_out(self, length: float, count: int) -> None:
        is_odd = length > self._limit()
        if is_odd and self._was_odd:
            before, seconds = self._odd.pop()
            self._odd.append((before, seconds + length * count))
        elif is_odd:
            self._odd.append((self._seen, length * count))
        self._was_odd = is_odd
        self._seen += count

    def seconds(self) -> float | None:
        """Seconds a step over the last ones, data loading and what recurs between them included, saves not."""
        if not self._sorted:
            return self._before
        limit, steps, time = self._limit(), 0, 0.0
        for length, count in self._lengths:
            if length <= limit:
                steps, time = steps + count, time + length * count
        return time / steps + self._recurring()

    def _recurring(self) -> float:
        """Seconds a step that odd ones add, as often as they came lately: a compile comes early and then no more."""
        lately = [seconds for before, seconds in self._odd if before >= self._seen / 2]
        if len(self._odd) < RECURRING or len(lately) < RECURRING - 1:
            return 0.0
        begin = max(self._seen / 2, self._odd[0][0]) if len(self._odd) == self._odd.maxlen else self._seen / 2
        # The median one: a box that stood still may be among them.
        return statistics.median(lately) * len(lately) / (self._seen - begin)

    def save_seconds(self) -> float:
        """Seconds that the next save will hold the training up; 0 while none was seen."""
        return statistics.median(self._saves) if self._saves else 0.0

    def left(self, step: int, plan: Plan) -> float | None:
        """Seconds from `step` to the end, saves included; None while pace or end are unknown."""
        pace, cost = self.seconds(), self.save_seconds()
        if pace is None or not plan.steps:
            return None
        return pace * max(0, plan.steps - step) + cost * plan.saves_left(step, pace=pace, cost=cost)
