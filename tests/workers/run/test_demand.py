"""Wishes for a save: each passed on to a trainer that understands it, answered once, by the checkpoint it made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.record import Record, Saved, from_hash
from pi0q.queue.wishes import Wishes
from pi0q.workers.run import pins
from pi0q.workers.run.demand import CANT, Demand
from pi0q.workers.run.pace import Plan
from pi0q.workers.run.pins import Pins
from pi0q.workers.run.progress import Progress

STARTED = {"event": "start", "hooked": True}


def record(**fields: Any) -> Record:
    return replace(from_hash({"id": "a", "name": "a", "state": "running", "created_ms": "1"}), **fields)


def checkpoint(step: int) -> Saved:
    return Saved(step=step, path=f"/{step}", manifest="ab", bytes=1)


class Run:
    """A run's saves, and how often its trainer was asked."""

    def __init__(self, place: Path, **fields: Any) -> None:
        self.checkpoints = place / "checkpoints"
        self.checkpoints.mkdir()
        self.said, self.asked = list[str](), 0
        self.progress = Progress(Plan(steps=100))
        known = record(**fields)
        self.pins = Pins(self.checkpoints, known.kept_steps, self.said.append)
        self.demand = Demand(known, self.progress, self.pins, self.said.append)

    def begin(self, **start: Any) -> None:
        def ask() -> None:
            self.asked += 1

        self.demand.begin(ask)
        if start:
            self.demand.event(start)

    def saves(self, step: int, *, wanted: bool, good: bool = True) -> None:
        self.demand.event({"event": "saved", "step": step, "wanted": wanted, "cost_s": 1.5})
        if good:
            self.demand.sealed(checkpoint(step))
        else:
            self.demand.unsealed(step, "no space")

    @property
    def answer(self) -> tuple[int | None, int | None, str | None]:
        fields = self.progress.fields
        return fields.get("save_served"), fields.get("save_step"), fields.get("save_detail")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_wish_is_passed_on_once_and_answered_by_the_save_it_made(run: Run) -> None:
    run.begin(**STARTED)
    for _ in range(3):
        run.demand.hear(Wishes(save=7))
    assert run.asked == 1
    run.saves(10, wanted=False)
    assert run.answer[0] is None, "that one was under way before"
    run.saves(11, wanted=True)
    assert run.answer == (7, 11, "") and run.said == ["checkpoint 11 is what was asked for"]
    run.demand.hear(Wishes(save=7))
    assert run.asked == 1
    run.demand.hear(Wishes(save=8))
    run.saves(12, wanted=True)
    assert (run.asked, run.answer) == (2, (8, 12, ""))


def test_no_signal_before_the_trainer_understands_it(run: Run) -> None:
    """SIGUSR1 ends a Python that has no handler yet."""
    run.demand.hear(Wishes(save=7))
    run.begin()
    run.demand.hear(Wishes(save=7))
    assert run.asked == 0 and run.progress.fields["save_able"] == "starting"
    run.demand.event(STARTED)
    assert run.asked == 1 and run.progress.fields["save_able"] == "yes"


def test_the_next_trainer_is_asked_again_while_it_is_open(run: Run) -> None:
    run.begin(**STARTED)
    run.demand.hear(Wishes(save=7))
    run.demand.event({"event": "saved", "step": 5, "wanted": True})
    run.begin(**STARTED)
    assert run.asked == 2
    run.demand.sealed(checkpoint(5))
    assert run.answer[0] is None, "a save of the life before, which was read anew"
    run.saves(6, wanted=True)
    assert run.answer == (7, 6, "")


def test_a_lerobot_that_cant_be_hooked_says_so(run: Run) -> None:
    run.begin(event="start", hooked=False)
    assert run.progress.fields["save_able"] == "no"
    run.demand.hear(Wishes(save=7))
    assert run.asked == 0 and run.answer == (7, None, CANT)


def test_a_save_that_does_not_verify_is_an_answer_too(run: Run) -> None:
    run.begin(**STARTED)
    run.demand.hear(Wishes(save=7, pin=True))
    run.saves(9, wanted=True, good=False)
    assert run.answer == (7, None, "the checkpoint of step 9 could not be vouched for: no space")
    assert run.pins.steps == frozenset()


@pytest.mark.parametrize(("resumed_at", "answered"), [(50, True), (49, False)])
def test_what_its_runner_did_not_live_to_tell_is_answered_by_what_is_resumed_from(
    tmp_path: Path, resumed_at: int, answered: bool
) -> None:
    run = Run(tmp_path, save_wish=7, save_at=50)
    run.demand.resumed(checkpoint(resumed_at))
    run.begin(**STARTED)
    run.demand.hear(Wishes(save=7))
    assert (run.asked, run.answer[0]) == ((0, 7) if answered else (1, None))


def test_what_was_answered_in_an_earlier_run_is_not_wished_again(tmp_path: Path) -> None:
    run = Run(tmp_path, save_wish=7, save_served=7)
    run.begin(**STARTED)
    run.demand.hear(Wishes(save=7))
    assert run.asked == 0


def test_a_pinned_one_is_spared_before_the_queue_has_heard_of_it(run: Run) -> None:
    run.begin(**STARTED)
    run.demand.hear(Wishes(save=7, pin=True, kept=(3,)))
    run.saves(9, wanted=True)
    assert run.pins.steps == {3, 9} == pins.read(run.checkpoints)
    # A report that was on its way before the answer.
    run.demand.hear(Wishes(save=7, pin=True, kept=(3,)))
    assert run.pins.steps == {3, 9}
    run.demand.hear(Wishes(kept=(9,)))
    assert run.pins.steps == {9} == pins.read(run.checkpoints)
    run.demand.hear(Wishes())
    assert pins.read(run.checkpoints) == frozenset() and not list(run.checkpoints.iterdir())


def test_a_disk_that_takes_no_pins_ends_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpoints.rmdir()
    run.demand.hear(Wishes(kept=(3,)))
    assert run.said == [] and not run.checkpoints.exists(), "LeRobot makes its directory itself"
    (run.checkpoints / "pi0q.kept.new").mkdir(parents=True)
    run.demand.hear(Wishes(kept=(3, 4)))
    assert "could not be written down" in run.said[0] and run.pins.steps == {3, 4}


def test_what_saves_cost_is_known_and_said_once(tmp_path: Path) -> None:
    run = Run(tmp_path, spec={"checkpoints": {"every": "1.0s"}, "train": {"save_freq": 2}})
    run.progress.update(step_seconds=0.5)
    run.begin(**STARTED)
    run.saves(2, wanted=False)
    run.saves(4, wanted=False)
    assert run.progress.fields["save_seconds"] == 1.5
    clock, steps = run.said
    assert "saves by the clock come every 74 s instead of every 1 s" in clock and "save_freq: 2 costs 60%" in steps
