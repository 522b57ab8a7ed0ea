"""How long a job has trained, and its limit."""

from __future__ import annotations

from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.progress import Progress
from pi0q.workers.runs.stop import StopCause
from pi0q.workers.runs.training_time import TrainingTime


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def training(before: float = 0.0, limit: float | None = 100.0) -> tuple[TrainingTime, Progress, Clock]:
    clock, progress = Clock(), Progress(SaveSchedule(steps=10))
    return TrainingTime(progress, before=before, limit=limit, clock=clock), progress, clock


def ticks(time: TrainingTime, clock: Clock, seconds: float) -> StopCause | None:
    clock.now += seconds
    time.on_tick()
    return time.check()


def test_it_stops_at_the_limit_and_not_before() -> None:
    time, progress, clock = training()
    time.on_start(1)
    assert ticks(time, clock, 99.9) is None
    assert ticks(time, clock, 0.2) is StopCause.TIME_LIMIT
    assert progress.fields["trained_seconds"] == 100.1


def test_earlier_runs_count_and_the_time_between_them_does_not() -> None:
    time, progress, clock = training(before=60.0)
    clock.now += 5000
    time.on_start(1)
    assert ticks(time, clock, 30) is None
    time.on_exit()
    assert progress.fields["trained_seconds"] == 90.0
    clock.now += 5000
    time.on_start(2)
    assert ticks(time, clock, 9) is None
    assert ticks(time, clock, 1) is StopCause.TIME_LIMIT


def test_the_record_is_told_each_ten_seconds_and_at_the_end() -> None:
    time, progress, clock = training()
    time.on_start(1)
    ticks(time, clock, 9)
    assert "trained_seconds" not in progress.fields
    ticks(time, clock, 1)
    assert progress.fields["trained_seconds"] == 10.0
    clock.now += 2
    time.on_exit()
    assert progress.fields["trained_seconds"] == 12.0


def test_without_a_limit_it_counts_and_never_stops() -> None:
    time, _, clock = training(limit=None)
    time.on_start(1)
    assert ticks(time, clock, 1e9) is None
    assert not time.is_over and time.seconds == 1e9
