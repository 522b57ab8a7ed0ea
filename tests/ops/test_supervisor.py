"""Supervision of one child: starts, ends and backoff, with a clock of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.supervisor import HEALTHY_SECONDS, Failed, Started, Supervisor, log_tail


class Child:
    """A process that ends when it is told to."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code

    def poll(self) -> int | None:
        return self.code


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_supervisor_doubles_the_delay_of_a_child_that_ends_at_once() -> None:
    clock, starts = Clock(), list[float]()

    def spawn() -> Any:
        starts.append(clock.now)
        return Child(code=3)

    supervisor = Supervisor(spawn, clock=clock)
    while clock.now < 1200:
        supervisor.tick()
        clock.now += 0.5
    # Half a second until the end is seen, then the delay.
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps == [1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 60.5, 60.5]


def test_supervisor_forgets_failures_after_a_healthy_life() -> None:
    clock, child = Clock(), Child()
    supervisor: Any = Supervisor(lambda: child, clock=clock)  # type: ignore[arg-type, return-value]
    for delay in (1.0, 2.0, 4.0):
        child.code = None
        assert isinstance(supervisor.tick(), Started)
        child.code = 1
        assert supervisor.tick() == Failed(exit_code=1, delay=delay)
        clock.now += delay
    child.code = None
    assert supervisor.tick() == Started(again=True)
    clock.now += HEALTHY_SECONDS + 1
    child.code = 0
    assert supervisor.tick() == Failed(exit_code=0, delay=1.0)


def test_supervisor_retries_a_start_that_failed() -> None:
    clock, errors = Clock(), [OSError("no memory"), Pi0qError("no server")]

    def spawn() -> Any:
        if errors:
            raise errors.pop(0)
        return Child()

    supervisor = Supervisor(spawn, clock=clock)
    assert supervisor.tick() == Failed(error="no memory", delay=1.0)
    assert supervisor.tick() is None and supervisor.seconds_until_due == 1.0
    clock.now += 1
    assert supervisor.tick() == Failed(error="no server", delay=2.0)
    clock.now += 2
    assert supervisor.tick() == Started(again=True)
    assert supervisor.tick() is None and supervisor.seconds_until_due is None


def test_supervisor_starts_at_once_after_a_release() -> None:
    clock, child = Clock(), Child()
    supervisor: Any = Supervisor(lambda: child, clock=clock)  # type: ignore[arg-type, return-value]
    assert supervisor.tick() == Started(again=False)
    assert supervisor.release() is child and supervisor.seconds_until_due == 0
    assert supervisor.tick() == Started(again=False)


def test_supervisor_watches_a_child_that_it_did_not_start() -> None:
    clock, child = Clock(), Child()
    supervisor: Any = Supervisor(Child, clock=clock)  # type: ignore[arg-type]
    supervisor.adopt(child)
    assert supervisor.tick() is None
    child.code = -9
    assert supervisor.tick() == Failed(exit_code=-9, delay=1.0)


def test_log_tail_is_the_last_lines_and_empty_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{line}\n" for line in range(9)))
    assert log_tail(tmp_path / "log", 2) == ["7", "8"]
    assert log_tail(tmp_path / "none") == []
