"""A worker that restarts in place: how soon, and what it tells the process that it becomes."""

from __future__ import annotations

import json
from itertools import accumulate

import pytest

from pi0q.workers.agent import restart
from pi0q.workers.agent.restart import Restarts


def test_pause_before_a_restart_doubles_up_to_a_minute() -> None:
    restarts = list(accumulate(range(8), lambda known, _: known.after(1.0), initial=Restarts().after(1.0)))
    assert [known.pause(2.0) for known in restarts] == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert restarts[-1].after(restart.HEALTHY_SECONDS + 1).pause(2.0) == 2


def test_a_restarted_worker_knows_the_earlier_ones_and_its_children_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[dict[str, str]] = []
    monkeypatch.setattr("os.execve", lambda path, argv, env: passed.append(env))
    restarts = Restarts(count=3, foreign_children={17: 1234})
    restart.begin(restarts)
    env = passed[0]
    assert restart.earlier(env) == restarts
    assert restart.earlier(env) is None and restart.VARIABLE not in env


def test_a_worker_of_the_version_before_restarts_into_this_one() -> None:
    """After an upgrade in place the old worker writes what the new one reads."""
    env = {restart.VARIABLE: json.dumps({"count": 2, "strangers": {"17": 1234}})}
    assert restart.earlier(env) == Restarts(count=2, foreign_children={17: 1234})
