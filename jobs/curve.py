"""Curve of a training: loss, learning rate and step time by step, thinned out to a bounded number of points.

The first and the last point are as they were measured; those between are means of a stretch of steps, whose length
doubles as the curve grows. A training that goes on from an earlier step replaces what came after it, so that one
curve joins all runs of a job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from pi0q.jobs.record_codecs import MAX_INT

#: Points of a curve at the most, and characters of one: 64 KiB in all.
MOST_POINTS, LONGEST_POINT = 1000, 64
#: Significant digits of a stored number.
DIGITS = 6
#: Numbers above this are no measurement.
MOST = 1e30


class Point(NamedTuple):
    """What a training told at one step; None for what it did not, or where that was no finite number."""

    step: int
    loss: float | None = None
    lr: float | None = None
    #: Seconds a step.
    seconds: float | None = None


@dataclass(frozen=True)
class _Stretch:
    """The mean of the points of some steps that follow one another; its step is the last of them."""

    point: Point
    #: Points that are in each mean: loss, lr, seconds.
    counts: tuple[int, int, int]

    def joined(self, other: _Stretch) -> _Stretch:
        means, counts = [], []
        pairs = zip(self.point[1:], other.point[1:], self.counts, other.counts, strict=True)
        for mine, its, count, more in pairs:
            means.append(_mean(mine, its, count, more))
            counts.append((count if mine is not None else 0) + (more if its is not None else 0))
        return _Stretch(Point(other.point.step, *means), (counts[0], counts[1], counts[2]))


def _mean(mine: float | None, its: float | None, count: int, more: int) -> float | None:
    if mine is None or its is None:
        return its if mine is None else mine
    return mine + (its - mine) * (more / (count + more))


class Curve:
    """A curve that grows. Its `points` are what is stored; `Curve.of` goes on from them."""

    def __init__(self) -> None:
        self._first: Point | None = None
        self._last: Point | None = None
        self._middle: list[_Stretch] = []
        #: Steps of a stretch.
        self._length = 1

    @classmethod
    def of(cls, points: Iterable[Point]) -> Curve:
        """Return the curve that these points, in order, were thinned out to."""
        curve = cls()
        for point in points:
            curve.add(point)
        return curve

    def add(self, point: Point) -> None:
        """Add the point of a step; points of that step and of later ones are replaced by it."""
        point = Point(point.step, *map(_finite, point[1:]))
        self.cut(point.step)
        if self._first is None:
            self._first = point
            return
        if self._last is not None:
            self._append(_Stretch(self._last, (1, 1, 1)))
        self._last = point

    def cut(self, step: int) -> None:
        """Forget this step and all after it: the training goes on from before it."""
        if self._last is not None and self._last.step >= step:
            self._last = None
        while self._middle and self._middle[-1].point.step >= step:
            self._middle.pop()
        if self._first is not None and self._first.step >= step:
            self._first = None

    @property
    def points(self) -> tuple[Point, ...]:
        """Return the points by step, MOST_POINTS at the most."""
        ends = [[self._first] if self._first else [], [self._last] if self._last else []]
        return (*ends[0], *(stretch.point for stretch in self._middle), *ends[1])

    def _append(self, stretch: _Stretch) -> None:
        self._middle = _with(self._middle, stretch, self._length)
        while len(self._middle) > MOST_POINTS - 2:
            self._length *= 2
            joined: list[_Stretch] = []
            for one in self._middle:
                joined = _with(joined, one, self._length)
            self._middle = joined


def _with(middle: list[_Stretch], stretch: _Stretch, length: int) -> list[_Stretch]:
    """Add a stretch to a list, which changes; one of the same `length` steps as the last becomes one with it."""
    if middle and (middle[-1].point.step - 1) // length == (stretch.point.step - 1) // length:
        middle[-1] = middle[-1].joined(stretch)
    else:
        middle.append(stretch)
    return middle


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and isfinite(value) and abs(value) < MOST else None


# -- as text ----------------------------------------------------------------------------------------


def write(points: Iterable[Point]) -> list[str]:
    """Return the points as they are stored, a JSON list each."""
    return [f"[{point.step},{','.join(map(_short, point[1:]))}]" for point in points]


def read(lines: Sequence[str]) -> tuple[Point, ...]:
    """Return the points of a stored curve, in order of their steps.

    What pi0q did not write is left out: a line that is no point, and one whose step is not above that before it.
    """
    found: list[Point] = []
    for line in lines[: MOST_POINTS + 1]:
        point = _point(line)
        if point and (not found or point.step > found[-1].step):
            found.append(point)
    return tuple(found)


def _point(line: str) -> Point | None:
    if len(line) > LONGEST_POINT:
        return None
    try:
        step, *values = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    if type(step) is not int or not 0 <= step <= MAX_INT or len(values) != len(Point._fields) - 1:
        return None
    if not all(value is None or type(value) in (int, float) for value in values):
        return None
    return Point(step, *map(_finite, values))


def _short(value: float | None) -> str:
    return "null" if value is None else f"{value:.{DIGITS}g}"


# -- for a small picture ----------------------------------------------------------------------------


def sampled(values: Sequence[float | None], count: int) -> tuple[float | None, ...]:
    """Return `count` of the values, evenly spread, both ends among them; all of them where there are no more."""
    if count < 2 or len(values) <= count:
        return tuple(values)
    return tuple(values[round(at * (len(values) - 1) / (count - 1))] for at in range(count))
