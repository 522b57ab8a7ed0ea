"""Experiment trackers that pi0q feeds itself, beside the one of LeRobot (WandB, see wandb_init.py).

A tracker is told the numbers that LeRobot logs, at the steps that it logs. It may neither stop nor delay a training:
it writes to the disk alone, and an error of it ends the tracker.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any, Protocol

from . import exits, swanlab_run
from .events import Events


class Tracker(Protocol):
    """One tracker of this life of the trainer."""

    #: As events and messages name it.
    name: str

    def begin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Begin the run, or go on with it; return what the box is to know of it."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one step."""

    def flush(self) -> None:
        """Have all that was logged on the disk: a checkpoint of that step is about to be complete."""

    def end(self, code: int) -> None:
        """End the run; `code` is the exit code of the trainer."""


#: Variable that turns a tracker on, with its settings as JSON -> what makes it.
MAKERS = {swanlab_run.VARIABLE: swanlab_run.SwanLabRun.of_json}


class Trackers:
    """The trackers of this trainer; each ends with its first error."""

    def __init__(self, events: Events, environment: Mapping[str, str] = os.environ) -> None:
        self.events = events
        self.live: list[Tracker] = [make(said) for name, make in MAKERS.items() if (said := environment.get(name))]
        #: Numbers that the policy told with the last step, beside those that LeRobot's meters hold.
        self.of_policy: dict[str, float] = {}
        if self.live:
            exits.at_leave.append(self.end)

    def begin(self, config: Any) -> None:
        """Begin the runs; the last moment before the first step."""
        # A tracker draws names: the training draws what it would draw without one.
        drawn = random.getstate()
        for tracker in list(self.live):
            if (told := self._try(tracker, "begin", _plain(config))) is not None:
                self.events.send(tracker.name, **told)
        random.setstate(drawn)

    def step(self, output: Any) -> None:
        """Take what the policy told with a step."""
        if self.live and isinstance(output, Mapping):
            self.of_policy = _numbers(output)

    def train_log(self, meters: Any) -> None:
        """Take the line that LeRobot logs: its meters, averaged as it tells them to WandB."""
        if self.live:
            numbers = self.of_policy | _numbers(meters.to_dict())
            self.log({f"train/{name}": value for name, value in numbers.items()}, int(meters.steps))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for tracker in list(self.live):
            self._try(tracker, "log", numbers, step)

    def flush(self) -> None:
        for tracker in list(self.live):
            self._try(tracker, "flush")

    def end(self, code: int) -> None:
        """End all; a tracker that can't is left to what lies on the disk."""
        for tracker in list(self.live):
            self._try(tracker, "end", code)
        self.live.clear()

    def _try(self, tracker: Tracker, act: str, *args: Any) -> Any:
        try:
            return getattr(tracker, act)(*args)
        except Exception as error:
            self.live.remove(tracker)
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"pi0q: {tracker.name} failed ({said}); the training goes on without it", flush=True)
            self.events.send("tracker_failed", tracker=tracker.name, message=said)
            return None


def is_train_log(message: Any) -> bool:
    """Whether a record of the log is LeRobot's line of a step, which is its meters themselves."""
    # Its class is asked: an object may answer with any error for what it does not have.
    return callable(getattr(type(message), "to_dict", None)) and "metrics" in getattr(message, "__dict__", {})


def _numbers(told: Mapping[str, Any]) -> dict[str, float]:
    kinds = (int, float)
    return {str(name): value for name, value in told.items() if isinstance(value, kinds) and value is not True}


def _plain(config: Any) -> dict[str, Any]:
    """LeRobot's configuration as JSON has it; {} where it can't be told."""
    try:
        found = config.to_dict()
    except Exception:
        return {}
    return found if isinstance(found, dict) else {}
