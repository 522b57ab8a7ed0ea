"""The pace and what is left, over streams of steps whose end is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pi0q.workers.runs.eta import Pace, SaveSchedule

#: A step's length in seconds, by its number.
Lengths = Callable[[int], float]


def even(step: int) -> float:
    return 0.7


def noisy(step: int) -> float:
    """Long tails, as where data come over a shared disk."""
    return random.Random(step).lognormvariate(-0.5, 0.6)


def compiled(step: int) -> float:
    """Cold kernels, and once more for the last, smaller batch of the first epoch."""
    return {1: 600.0, 2: 45.0, 20: 200.0, 340: 150.0, 700: 240.0}.get(step, 0.31)


def evaluated(step: int) -> float:
    return 40.0 if step % 500 == 0 else 0.7


def warming(step: int) -> float:
    return 2.5 if step <= 3 else 0.24


def epochs(step: int) -> float:
    """Data workers that start anew."""
    return 3.0 if step % 180 == 1 else 0.5


def slow_data(step: int) -> float:
    """Four workers that together are slower than the GPU: one wait in four."""
    return 1.6 if step % 4 == 0 else 0.2


RECORDED = json.loads((Path(__file__).parent / "recorded" / "act.json").read_text())


def recorded(step: int) -> float:
    """Real steps, in pieces of twenty as they came one after another: noise has a memory."""
    piece = random.Random(step // 20).randrange(len(RECORDED["steps"]) - 20)
    length: float = RECORDED["steps"][piece + step % 20]
    return length


STREAMS = [recorded, even, noisy, compiled, evaluated, warming, epochs, slow_data]


class Run:
    """Steps and saves as a hook would tell them: a save by step or time, held up by `cost` seconds."""

    def __init__(self, plan: SaveSchedule, lengths: Lengths, *, cost: float, start: int = 0) -> None:
        self.plan, self.lengths, self.cost, self.start = plan, lengths, cost, start

    def told(self) -> Iterator[tuple[str, int, float]]:
        now = saved = 1e9
        for step in range(self.start + 1, self.plan.steps + 1):
            now += self.lengths(step - self.start)
            yield "step", step, now
            by_step = self.plan.save_freq and step % self.plan.save_freq == 0
            by_time = self.plan.every_seconds is not None and now - saved >= self.plan.every_seconds
            if by_step or by_time or step == self.plan.steps:
                now += self.cost
                saved = now
                yield "saved", step, now

    def worst(self, pace: Pace, *, behind: float = 0.05, before: float = 0.9) -> float:
        """How far the time left was off at most, as a part of it, between these parts of the run."""
        told = list(self.told())
        end, steps, worst = told[-1][2], self.plan.steps - self.start, 0.0
        for what, step, at in told:
            if what == "saved":
                pace.saved(self.cost)
                pace.pause()
            pace.step(step, at)
            done = (step - self.start) / steps
            if what == "step" and step % 40 == 0 and behind <= done <= before:
                left = pace.left(step, self.plan)
                assert left is not None
                worst = max(worst, abs(left - (end - at)) / (end - at))
        return worst


@pytest.mark.parametrize("lengths", STREAMS, ids=lambda lengths: lengths.__name__)
@pytest.mark.parametrize("start", [0, 12_000], ids=["fresh", "resumed"])
def test_what_is_left_is_within_a_tenth_after_a_twentieth_of_the_run(lengths: Lengths, start: int) -> None:
    plan = SaveSchedule(steps=40_000, save_freq=1000, every_seconds=1800.0)
    before = Pace(seconds=None if start == 0 else 1.0)
    assert Run(plan, lengths, cost=29.0, start=start).worst(before) < 0.1


@pytest.mark.parametrize(
    "plan",
    [
        SaveSchedule(steps=20_000, save_freq=200),
        SaveSchedule(steps=20_000, save_freq=20_000, every_seconds=600.0),
        SaveSchedule(steps=20_000, save_freq=3_000, every_seconds=900.0),
        SaveSchedule(steps=20_000, save_freq=0, every_seconds=None),
    ],
    ids=["by step", "by time", "by both", "at the end"],
)
def test_saves_to_come_are_counted_in(plan: SaveSchedule) -> None:
    assert Run(plan, even, cost=10.0).worst(Pace()) < 0.03


def test_saves_to_come_are_most_of_it_where_they_are_that_dear() -> None:
    """One save takes as long as 43 steps."""
    run = Run(SaveSchedule(steps=2_000, save_freq=20), even, cost=30.0)
    assert run.worst(Pace()) < 0.1


def test_the_cost_of_a_save_is_known_from_the_run_before() -> None:
    plan = SaveSchedule(steps=1_000, save_freq=100)
    known, unknown = Pace(seconds=1.0, save_seconds=50.0), Pace(seconds=1.0)
    assert (known.left(0, plan), unknown.left(0, plan)) == (1500.0, 1000.0)


def test_saves_by_time_are_thought_no_dearer_than_they_may_be() -> None:
    """The trainer makes the interval longer where they would take more than a fiftieth of the time."""
    assert SaveSchedule(steps=10_000, every_seconds=10.0).saves_left(0, pace=1.0, cost=20.0) == 11


@pytest.mark.parametrize(("step", "saves"), [(0, 4), (1, 4), (99, 4), (100, 3), (299, 2), (300, 1), (349, 1), (350, 0)])
def test_how_many_saves_are_left(step: int, saves: int) -> None:
    assert SaveSchedule(steps=350, save_freq=100).saves_left(step, pace=1.0, cost=0.1) == saves


def test_until_it_is_known_better_the_pace_is_the_one_of_the_run_before() -> None:
    pace = Pace(seconds=2.0)
    pace.begin()
    assert pace.left(90, SaveSchedule(steps=100)) == 20.0
    pace.step(91, 5.0)
    assert pace.seconds() == 2.0
    pace.step(92, 6.0)
    assert pace.seconds() == 1.0


def test_another_life_is_measured_anew() -> None:
    pace = Pace()
    for step in range(1, 10):
        pace.step(step, float(step))
    pace.begin()
    assert pace.seconds() == 1.0
    pace.step(6, 1000.0)
    pace.step(7, 1000.1)
    assert pace.seconds() == pytest.approx(0.1)


def test_a_clock_that_jumps_and_a_box_that_stood_still_change_nothing() -> None:
    pace, now = Pace(), 1000.0
    for step in range(1, 400):
        now += {100: -3600.0, 200: 7200.0, 300: 900.0}.get(step, 0.5)
        pace.step(step, now)
    assert pace.seconds() == pytest.approx(0.5)


def test_a_phase_of_other_speed_is_no_recurrence() -> None:
    pace, now = Pace(), 0.0
    for step in range(1, 400):
        now += 10.0 if step < 60 else 0.1
        pace.step(step, now)
    assert pace.seconds() == pytest.approx(0.1)
