from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0q.ops.web import curves
from pi0q.ops.web.curves import Mark

VALUES = st.floats(allow_nan=True, allow_infinity=True)


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@given(st.lists(st.tuples(st.integers(0, 10**7), VALUES), max_size=40))
def test_chart_of_any_numbers_is_well_formed_and_stays_in_its_frame(points: list[tuple[int, float]]) -> None:
    points.sort(key=lambda point: point[0])
    svg = curves.chart([(float(x), y) for x, y in points], label="loss")
    assert bool(svg) == any(abs(y) <= curves.LARGEST for _, y in points)
    if svg:
        for part in drawn(svg).iter("path"):
            numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?", part.get("d", ""))]
            assert all(-1 <= x <= curves.WIDTH + 1 for x in numbers)


def test_chart_marks_restarts_and_tells_a_loss_that_became_nan() -> None:
    points = [(0.0, 1.0), (10.0, 0.5), (20.0, math.nan), (30.0, 0.4)]
    svg = drawn(curves.chart(points, [Mark(step=10, kind="restart", text="<claim 2>")], label="loss"))
    assert [one.get("class") for one in svg.iter("line") if "mark" in str(one.get("class"))] == ["mark restart"]
    assert next(title.text for title in svg.iter("title")) == "<claim 2>"
    assert len([one for one in svg.iter("rect") if one.get("class") == "lost"]) == 1
    # A gap, not a line through it.
    assert len(list(svg.iter("path"))) == 2


def test_chart_leaves_out_marks_outside_its_steps() -> None:
    svg = drawn(curves.chart([(5.0, 1.0), (9.0, 2.0)], [Mark(step=100, kind="checkpoint")], label="loss"))
    assert not [one for one in svg.iter("line") if "mark" in str(one.get("class"))]


def test_chart_of_values_far_apart_is_logarithmic() -> None:
    texts = [one.text for one in drawn(curves.chart([(1.0, 100.0), (2.0, 0.01)], label="loss")).iter("text")]
    assert {"0.01", "0.1", "1", "10", "100"} <= {*texts}


@pytest.mark.parametrize("shares", [(0.5, 0.2), (0.9, 0.9), (-1.0, math.nan), (math.inf, 0.3)])
def test_bar_never_leaves_its_frame(shares: tuple[float, float]) -> None:
    rects = list(drawn(curves.bar([("used", shares[0]), ("promised", shares[1])])).iter("rect"))
    assert sum(float(rect.get("width", "")) for rect in rects) <= 1.0001


def test_spark_needs_two_values() -> None:
    assert curves.spark([None, 1.0, math.nan]) == ""
    assert "path" in curves.spark([1.0, None, 0.5])
