"""When a run tells its pace while it trains."""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis

from pi0q.queue.store import Store
from pi0q.workers.runner import pace_report
from pi0q.workers.runner.pace_report import EVERY, FIRST_STEPS, PaceReport
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.progress import Progress


class Told:
    """Counts what is told in the place of a server that may be away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.away = 0, False
        self.progress = Progress(SaveSchedule(steps=5000))
        self.report = PaceReport(cast(Any, None), self.progress)
        monkeypatch.setattr(pace_report, "keep", self._keep)

    def _keep(self, *_: object) -> None:
        if self.away:
            raise redis.ConnectionError
        self.count += 1

    def at(self, step: int | None, now: float) -> int:
        """Return how often it was told by then."""
        self.progress.update(step=step)
        self.report.send(cast(Store, None), now)
        return self.count


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_the_pace_is_told_once_it_is_steady_and_then_each_hour(told: Told) -> None:
    assert [told.at(None, 0.0), told.at(1000, 1.0), told.at(1000 + FIRST_STEPS - 1, 2.0)] == [0, 0, 0]
    assert [told.at(1000 + FIRST_STEPS, 3.0), told.at(2000, 2.0 + EVERY), told.at(3000, 3.0 + EVERY)] == [1, 1, 2]


def test_a_run_that_begins_before_its_last_step_counts_from_there(told: Told) -> None:
    assert [told.at(1000, 1.0), told.at(500, 2.0), told.at(500 + FIRST_STEPS, 3.0)] == [0, 0, 1]


def test_a_server_that_is_away_hears_it_later(told: Told) -> None:
    told.away = True
    assert [told.at(0, 0.0), told.at(FIRST_STEPS, 1.0)] == [0, 0]
    told.away = False
    assert told.at(FIRST_STEPS, 2.0) == 1
