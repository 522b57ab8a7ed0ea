"""A trainer that does no step for far longer than its steps take, and one that only saves, pushes or compiles."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pi0q.workers.trainer.watchdog import COMPILE_SECONDS, LOOK_SECONDS, Watchdog


def step(number: int, steps: int = 100) -> dict[str, Any]:
    return {"event": "step", "step": number, "steps": steps}


def watched(watch: Watchdog, begin: float, end: float) -> list[float]:
    """When it was taken to hang, looked at each second."""
    return [float(now) for now in range(math.ceil(begin), math.ceil(end)) if watch.look(float(now)) is not None]


@pytest.fixture
def watch() -> Watchdog:
    return Watchdog(600.0, compiles=False, now=0.0)


def stepping(watch: Watchdog, seconds: float, *, steps: int = 30) -> float:
    """Steps of that length; the time of the last one."""
    for number in range(steps):
        watch.event(step(number + 1), number * seconds)
    return (steps - 1) * seconds


def test_ten_minutes_without_a_step_are_a_hang(watch: Watchdog) -> None:
    last = stepping(watch, 1.0)
    assert watched(watch, last, last + 599) == []
    assert watched(watch, last + 599, last + 602) != []


def test_slow_steps_have_twenty_times_their_length(watch: Watchdog) -> None:
    last = stepping(watch, 60.0)
    assert watched(watch, last, last + 1199) == []
    assert watched(watch, last + 1199, last + 1202) != []


def test_one_slow_step_is_not_the_measure(watch: Watchdog) -> None:
    last = stepping(watch, 1.0)
    watch.event(step(31), last + 500)
    assert watch.limit() == 600.0


def test_to_its_first_step_it_has_longer(watch: Watchdog) -> None:
    watch.event({"event": "start"}, 0.0)
    watch.event({"event": "ready", "step": 0, "steps": 100}, 10.0)
    assert watched(watch, 10, 1809) == []
    assert watched(watch, 1809, 1812) != []


def test_a_compile_may_take_an_hour_and_one_behind_it_half() -> None:
    watch = Watchdog(600.0, compiles=True, now=0.0)
    watch.event({"event": "compiling"}, 1.0)
    assert watch.limit() == COMPILE_SECONDS
    watch.event(step(1), 2000.0)
    assert watch.limit() == 1800.0


@pytest.mark.parametrize("kind", ["saving", "stopping"])
def test_a_save_and_a_stop_take_as_long_as_they_take(watch: Watchdog, kind: str) -> None:
    last = stepping(watch, 1.0)
    watch.event({"event": kind, "step": 30}, last)
    assert watched(watch, last, last + 9000) == []


def test_behind_a_save_it_is_watched_again_and_its_length_is_no_steps(watch: Watchdog) -> None:
    last = stepping(watch, 1.0)
    watch.event({"event": "saving", "step": 30}, last)
    watch.event({"event": "saved", "step": 30}, last + 300)
    watch.event(step(31), last + 301)
    assert watch.limit() == 600.0
    assert watched(watch, last + 301, last + 903) != []


@pytest.mark.parametrize("kind", ["step", "ready"])
def test_behind_the_last_step_there_is_nothing_to_wait_for(watch: Watchdog, kind: str) -> None:
    watch.event({"event": kind, "step": 100, "steps": 100}, 0.0)
    watch.event({"event": "saved", "step": 100}, 10.0)
    assert watched(watch, 10, 9000) == []


def test_a_watcher_that_stood_still_itself_heard_nothing(watch: Watchdog) -> None:
    """A paused machine: what the trainer said meanwhile is read in the next moment."""
    last = stepping(watch, 1.0)
    assert watch.look(last + 7200.0) is None
    assert watched(watch, last + 7200, last + 7200 + 600 - 2 * LOOK_SECONDS) == []
    assert watched(watch, last + 7200 + 590, last + 7200 + 602) != []
