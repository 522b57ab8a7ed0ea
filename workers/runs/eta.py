"""Step time and remaining time of a training. Pure: times come from the hook's events."""

from __future__ import annotations

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
#: Steps after which the median of the window is taken anew; at each step it would cost half a millisecond.
REFRESH = 16
#: Saves by time take no larger part of the time than this, see pi0q_trainer.
SAVE_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class SaveSchedule:
    """When a training saves and ends."""

    #: Its last step; 0 if it is unknown.
    steps: int
    #: Steps between saves; 0 for none but the last one.
    save_freq: int = 0
    #: Seconds after which it saves at the latest; None for never.
    every_seconds: float | None = None

    def saves_left(self, step: int, *, pace: float, cost: float) -> int:
        """Return the saves after `step`, the last one included, at `pace` seconds a step and `cost` seconds a save."""
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
    """Measures the pace from the end of each step and save; times are seconds of one clock."""

    def __init__(self, *, seconds: float | None = None, save_seconds: float | None = None) -> None:
        """`seconds` a step and `save_seconds` a save of the job's last run count until new ones are measured."""
        self._before = seconds
        self._saves: deque[float] = deque([save_seconds] if save_seconds else [], maxlen=3)
        self._clear()

    def _clear(self) -> None:
        #: Seconds a step, and how many steps took so long.
        self._lengths: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        #: Seconds above which a step is odd.
        self._limit = 0.0
        #: Steps since that was measured.
        self._fresh = 0
        #: Odd steps: how many others had come before, and their seconds; those in a row are one.
        self._odd: deque[tuple[int, float]] = deque(maxlen=100)
        self._seen, self._was_odd = 0, False
        self._cold = WARM_UP
        self._last: tuple[int, float] | None = None

    def begin(self) -> None:
        """Begin another life of the trainer: its steps may be of another speed, and the first ones are slow."""
        self._before = self.seconds()
        self._clear()

    def pause(self) -> None:
        """Do not measure the next step from the last one: something else comes between them."""
        self._last = None

    def saved(self, seconds: float) -> None:
        """Note how long a save held the training up."""
        self._saves.append(seconds)

    def step(self, step: int, at: float) -> None:
        """Note the end of a step; the steps since the last noted one count as equally long."""
        last, self._last = self._last, (step, at)
        if last is None or step <= last[0] or at <= last[1]:
            return
        if self._cold == 0:
            self._lengths.clear()
        self._cold -= 1
        count = step - last[0]
        length = (at - last[1]) / count
        self._lengths.append((length, count))
        self._fresh += 1
        if len(self._lengths) <= REFRESH or self._fresh >= REFRESH:
            self._limit, self._fresh = ODD * statistics.median_high(length for length, _ in self._lengths), 0
        self._note_odd(length, count)

    def _note_odd(self, length: float, count: int) -> None:
        is_odd = length > self._limit
        if is_odd and self._was_odd:
            before, seconds = self._odd.pop()
            self._odd.append((before, seconds + length * count))
        elif is_odd:
            self._odd.append((self._seen, length * count))
        self._was_odd = is_odd
        self._seen += count

    def seconds(self) -> float | None:
        """Return the seconds a step over the last ones, with what recurs between them, without saves."""
        if not self._lengths:
            return self._before
        steps, time = 0, 0.0
        for length, count in self._lengths:
            if length <= self._limit:
                steps, time = steps + count, time + length * count
        return time / steps + self._recurring()

    def _recurring(self) -> float:
        """Return what odd steps add to each step, by how often they came lately: a compile comes once, and early."""
        lately = [seconds for before, seconds in self._odd if before >= self._seen / 2]
        if len(self._odd) < RECURRING or len(lately) < RECURRING - 1:
            return 0.0
        begin = max(self._seen / 2, self._odd[0][0]) if len(self._odd) == self._odd.maxlen else self._seen / 2
        # The median one: a box that stood still may be among them.
        return statistics.median(lately) * len(lately) / (self._seen - begin)

    def save_seconds(self) -> float:
        """Return the seconds that the next save will hold the training up; 0 while none was seen."""
        return statistics.median(self._saves) if self._saves else 0.0

    def left(self, step: int, schedule: SaveSchedule) -> float | None:
        """Return the seconds from `step` to the end, with saves; None while pace or end are unknown."""
        pace, cost = self.seconds(), self.save_seconds()
        if pace is None or not schedule.steps:
            return None
        return pace * max(0, schedule.steps - step) + cost * schedule.saves_left(step, pace=pace, cost=cost)
