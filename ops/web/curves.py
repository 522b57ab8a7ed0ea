"""Curves as SVG text: what the page of a job shows of its loss, learning rate and pace. Pure.

The page's Content-Security-Policy allows no inline style: shapes take their looks from classes of static/page.css.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

#: Size of a curve in its own units; a browser scales it to the width of its panel.
WIDTH, HEIGHT = 420, 160
#: Room for the numbers at the axes.
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 24
#: Lines across at the most.
GRID_LINES = 4
#: A positive series whose largest value is this many times its smallest is drawn on a logarithmic axis.
LOGARITHMIC = 50.0

#: Values beyond are drawn like infinite ones: their differences would not fit a float.
LARGEST = 1e30

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A step at which something happened: `restart` or `checkpoint`."""

    step: int
    kind: str
    text: str = ""


def spark(values: Sequence[float | None], width: int = 96, height: int = 22) -> Markup:
    """Return a small line without axes; empty for fewer than two finite values."""
    points = [
        (float(at), value) for at, value in enumerate(values) if value is not None and math.isfinite(_tame(value))
    ]
    if len(points) < 2:
        return Markup("")
    low, high = min(y for _, y in points), max(y for _, y in points)
    across, up = _scale(0.0, points[-1][0], 1.0, width - 1.0), _scale(low, high, height - 2.0, 2.0)
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true"><path d="{}"/></svg>'
    ).format(width, height, _path(points, across, up))


def chart(points: Sequence[Point], marks: Iterable[Mark] = (), *, label: str, from_zero: bool = False) -> Markup:
    """Return a chart of values over steps, with a title for each mark and for the newest value.

    Values that are not finite are drawn as gaps, each with a bar: a loss that became NaN is to be seen.

    Args:
        points: Step and value, in order of steps.
        marks: Vertical lines.
        label: What screen readers say.
        from_zero: Whether the lowest line is 0, so that noise does not look like change.
    """
    points = [(x, _tame(y)) for x, y in points]
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return Markup("")
    first, last = points[0][0], points[-1][0]
    values = [y for _, y in finite] + ([0.0] if from_zero else [])
    logarithmic = min(values) > 0 and max(values) >= LOGARITHMIC * min(values)
    ticks = _log_ticks(min(values), max(values)) if logarithmic else _ticks(min(values), max(values))
    low, high = min(*ticks, *values), max(*ticks, *values)
    form: Callable[[float], float] = math.log10 if logarithmic else float
    across = _scale(first, last, LEFT, WIDTH - RIGHT)
    up_to = _scale(form(low), form(high), HEIGHT - BOTTOM, TOP)

    def up(value: float) -> float:
        return up_to(form(value))

    parts = [
        *(_grid(up(tick), _number(tick)) for tick in ticks),
        *(_step(across(step), step, anchor) for step, anchor in _steps(first, last)),
        *(_mark(across(mark.step), mark) for mark in marks if first <= mark.step <= last),
        *(_lost(across(x)) for x, y in points if not math.isfinite(y)),
        *(Markup('<path class="line" d="{}"/>').format(_path(run, across, up)) for run in _runs(points)),
        _dot(across(finite[-1][0]), up(finite[-1][1]), finite[-1]),
    ]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def bar(parts: Iterable[tuple[str, float]], *, label: str = "") -> Markup:
    """Return a bar of shares between 0 and 1, from left to right, each with a class of its own."""
    at, drawn = 0.0, []
    for name, share in parts:
        width = max(0.0, min(share if math.isfinite(share) else 0.0, 1.0 - at))
        drawn.append(Markup('<rect class="{}" x="{}" width="{}" height="1"/>').format(name, _cut(at), _cut(width)))
        at += width
    return Markup(
        '<svg class="bar" viewBox="0 0 1 1" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(drawn))


def _tame(value: float) -> float:
    """Return a value that can be drawn beside others: infinity for one too large, 0 for one too small."""
    size = abs(value)
    return math.inf if size > LARGEST else 0.0 if size < 1 / LARGEST else value


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low
    return lambda value: start + (end - start) * ((value - low) / span if span else 0.5)


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Return the pieces of a curve between values that are not finite, and where the step runs backwards."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if not math.isfinite(point[1]):
            runs.append([])
            continue
        if runs[-1] and point[0] < runs[-1][-1][0]:
            runs.append([])
        runs[-1].append(point)
    return [run for run in runs if run]


def _path(points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    found = [f"{_cut(across(x))} {_cut(up(y))}" for x, y in points]
    # A path of one point draws nothing.
    return "M" + "L".join(found if len(found) > 1 else found * 2)


def _cut(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers that enclose the values."""
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / GRID_LINES
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough)
    first = math.floor(low / step)
    return [number * step for number in range(first, math.ceil(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / GRID_LINES))
    return [10.0**power for power in range(first, last + every, every)]


def _steps(first: float, last: float) -> list[tuple[float, str]]:
    if last <= first:
        return [(first, "middle")]
    return [(first, "start"), ((first + last) / 2, "middle"), (last, "end")]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if not 0.001 <= abs(value) < 100_000:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _grid(y: float, text: str) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, _cut(y), _cut(y))
    return line + Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 6, _cut(y + 4), text)


def _step(x: float, step: float, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_cut(x), HEIGHT - 6, anchor, f"{step:,.0f}")


def _mark(x: float, mark: Mark) -> Markup:
    title = Markup("<title>{}</title>").format(mark.text) if mark.text else Markup("")
    return Markup('<line class="mark {}" x1="{}" x2="{}" y1="{}" y2="{}">{}</line>').format(
        escape(mark.kind), _cut(x), _cut(x), TOP, HEIGHT - BOTTOM, title
    )


def _lost(x: float) -> Markup:
    return Markup('<rect class="lost" x="{}" y="{}" width="4" height="{}"><title>NaN</title></rect>').format(
        _cut(x - 2), TOP, HEIGHT - BOTTOM - TOP
    )


def _dot(x: float, y: float, point: Point) -> Markup:
    return Markup('<circle class="dot" cx="{}" cy="{}" r="3.5"><title>{}</title></circle>').format(
        _cut(x), _cut(y), f"{point[0]:,.0f}: {point[1]:.6g}"
    )
