"""A curve keeps its ends, its bounds and its order, whatever a training tells."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0q.jobs import curve
from pi0q.jobs.curve import LONGEST_POINT, MOST_POINTS, Curve, Point

NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
POINTS = st.builds(Point, st.integers(0, 2**53), NUMBERS, NUMBERS, NUMBERS)
FEW = settings(max_examples=20, deadline=None)


@st.composite
def runs(draw: st.DrawFn) -> list[Point]:
    """Points of several runs of one training: each begins at any earlier step."""
    found, step = list[Point](), 0
    for _ in range(draw(st.integers(1, 4))):
        step = draw(st.integers(0, step))
        stride = draw(st.integers(1, 400))
        for number in range(draw(st.integers(1, 1200))):
            step += stride
            found.append(Point(step, float(number % 7), 1e-4, 0.25))
    return found


@FEW
@given(runs())
def test_ends_are_as_measured_and_the_size_is_bounded(points: list[Point]) -> None:
    kept = Curve.of(points).points
    assert 0 < len(kept) <= MOST_POINTS
    assert kept[-1] == points[-1]
    assert kept[0] == next(
        one for at, one in enumerate(points) if not any(p.step <= one.step for p in points[at + 1 :])
    )
    assert [one.step for one in kept] == sorted({one.step for one in kept})
    assert sum(len(line) + 1 for line in curve.write(kept)) <= 64 * 1024


@FEW
@given(runs())
def test_means_lie_between_what_was_measured(points: list[Point]) -> None:
    losses = [one.loss for one in points if one.loss is not None]
    assert all(min(losses) - 1e-9 <= (one.loss or 0.0) <= max(losses) + 1e-9 for one in Curve.of(points).points)


@FEW
@given(st.lists(POINTS, max_size=40))
def test_any_numbers_are_written_short_and_read_back(points: list[Point]) -> None:
    kept = Curve.of(points).points
    lines = curve.write(kept)
    assert all(len(line) <= LONGEST_POINT for line in lines)
    read = curve.read(lines)
    assert [one.step for one in read] == [one.step for one in kept]
    for one, other in zip(read, kept, strict=True):
        for value, before in zip(one[1:], other[1:], strict=True):
            assert (value is None) == (before is None)
            assert value is None or before is None or math.isclose(value, before, rel_tol=1e-5)


@FEW
@given(runs(), st.integers(0, 3000))
def test_curve_goes_on_from_what_was_stored(points: list[Point], at: int) -> None:
    """Another box reads the points and continues; both ends stay exact."""
    first, later = points[:at], points[at:]
    stored = curve.read(curve.write(Curve.of(first).points))
    joined = Curve.of([*stored, *later])
    assert len(joined.points) <= MOST_POINTS and joined.points[-1] == points[-1]


def test_resume_replaces_what_came_after_its_step() -> None:
    kept = Curve.of([Point(step, 1.0) for step in range(1, 11)])
    for step in range(6, 9):
        kept.add(Point(step, 2.0))
    assert [(one.step, one.loss) for one in kept.points] == [
        *((step, 1.0) for step in range(1, 6)), *((step, 2.0) for step in range(6, 9))
    ]  # fmt: skip
    kept.add(Point(1, 3.0))
    assert kept.points == (Point(1, 3.0),)


def test_long_curve_keeps_its_shape() -> None:
    points = [Point(step, 1000.0 / step) for step in range(1, 50_001)]
    kept = Curve.of(points).points
    assert len(kept) > MOST_POINTS // 4
    assert all(math.isclose(one.loss or 0, 1000.0 / one.step, rel_tol=0.35) for one in kept if one.step > 200)


@pytest.mark.parametrize(
    "line",
    ["", "[]", "7", "{}", "[1]", "[1,2,3]", "[1,2,3,4,5]", "[-1,1,1,1]", "[1.5,1,1,1]", '["1",1,1,1]', "[1,true,1,1]",
     "[1,[],1,1]", "[" * 60, "[1,1,1," + "1" * 80 + "]", "[NaN,1,1,1]", "null", "[9007199254740993,1,1,1]"],
)  # fmt: skip
def test_line_that_is_no_point_is_left_out(line: str) -> None:
    assert curve.read(["[1,0.5,null,2]", line, "[2,0.25,1e-05,null]"]) == (
        Point(1, 0.5, None, 2.0), Point(2, 0.25, 1e-5)
    )  # fmt: skip


def test_steps_that_do_not_grow_and_lines_beyond_the_bound_are_left_out() -> None:
    assert curve.read(["[5,1,1,1]", "[5,2,2,2]", "[4,3,3,3]", "[6,4,4,4]"]) == (Point(5, 1, 1, 1), Point(6, 4, 4, 4))
    assert len(curve.read([f"[{step},1,1,1]" for step in range(5000)])) <= MOST_POINTS + 1


def test_sampled_takes_both_ends() -> None:
    assert curve.sampled(range(100), 3) == (0, 50, 99)
    assert curve.sampled([1.0, None], 5) == (1.0, None) and curve.sampled((), 5) == ()
