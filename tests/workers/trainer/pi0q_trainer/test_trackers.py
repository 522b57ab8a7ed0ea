"""Trackers that pi0q feeds itself: none of them may stop a training."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pi0q.workers.trainer.pi0q_trainer import exits, trackers
from pi0q.workers.trainer.pi0q_trainer.events import Events
from pi0q.workers.trainer.pi0q_trainer.trackers import Trackers


class Tracker:
    """A tracker that fails in one of its acts."""

    name = "made_up"

    def __init__(self, fails: str = "") -> None:
        self.fails, self.rows, self.ended = fails, list[tuple[dict[str, float], int]](), list[int]()

    def _act(self, name: str) -> None:
        if self.fails == name:
            raise OSError("no space left")

    def begin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        random.random()
        self._act("begin")
        return {"dir": "/d"}

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._act("log")
        self.rows.append((dict(numbers), step))

    def flush(self) -> None:
        self._act("flush")

    def end(self, code: int) -> None:
        self._act("end")
        self.ended.append(code)


class Meters:
    """What LeRobot logs at a step."""

    steps = 7

    def __init__(self) -> None:
        self.metrics = dict[str, Any]()

    def to_dict(self) -> dict[str, Any]:
        return {"loss": 0.5, "lr": 1e-4, "steps": 7}


@pytest.fixture(autouse=True)
def _no_trackers_are_left() -> Iterator[None]:
    yield
    exits.at_leave.clear()


def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracker: Tracker) -> tuple[Trackers, Path]:
    monkeypatch.setattr(trackers, "MAKERS", {"PI0Q_MADE_UP": lambda _: tracker})
    events = tmp_path / "events"
    return Trackers(Events(str(events)), {"PI0Q_MADE_UP": "{}"}), events


def test_it_gets_what_lerobot_logs_and_what_the_policy_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracker = Tracker()
    all_, events = made(monkeypatch, tmp_path, tracker)
    random.seed(1)
    drawn = random.getstate()
    all_.begin(object())
    assert random.getstate() == drawn, "the training draws what it would draw without a tracker"
    all_.step({"l1_loss": 0.25, "text": "x", "on": True})
    all_.train_log(Meters())
    all_.end(0)
    numbers = {"train/loss": 0.5, "train/lr": 1e-4, "train/steps": 7, "train/l1_loss": 0.25}
    assert tracker.rows == [(numbers, 7)] and tracker.ended == [0]
    assert json.loads(events.read_text())["event"] == "made_up"
    assert trackers.is_train_log(Meters()) and not trackers.is_train_log("End of training")


@pytest.mark.parametrize("act", ["begin", "log", "flush", "end"])
def test_one_that_fails_ends_and_the_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, act: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(act)
    all_, events = made(monkeypatch, tmp_path, tracker)
    all_.begin({})
    all_.log({"x": 1.0}, 1)
    all_.flush()
    all_.end(0)
    assert all_.live == []
    assert "made_up failed (OSError: no space left); the training goes on without it" in capsys.readouterr().out
    assert '"tracker_failed"' in events.read_text()


def test_a_package_that_is_not_there_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", None)
    said = {"id": "r", "project": "p", "name": "n", "dir": str(tmp_path)}
    all_ = Trackers(Events(None), {"PI0Q_SWANLAB": json.dumps(said)})
    all_.begin({})
    assert all_.live == []


def test_without_a_choice_there_is_none() -> None:
    none = Trackers(Events(None), {})
    none.begin({})
    none.step({"loss": 1.0})
    none.train_log(Meters())
    assert none.live == [] and exits.at_leave == []
