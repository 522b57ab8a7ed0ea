"""Wishes for a save: each passed on to a trainer that understands it, answered once, by the checkpoint it made."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.record import Record, Saved, from_hash
from pi0q.queue.store_types import UserRequests
from pi0q.workers.checkpoints import pins
from pi0q.workers.checkpoints.on_demand import NOT_HOOKED, CheckpointRequests
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.host import process_tree
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.progress import Progress
from tests.workers.checkpoints.conftest import Logged

#: The trainer's process, and the signals that were sent to it.
PID, SENT = 4711, list[tuple[int, int]]()
STARTED = {"event": "start", "hooked": True}


def record(**fields: Any) -> Record:
    return replace(from_hash({"id": "a1a1a1a1a1a1", "name": "a", "state": "running", "created_ms": "1"}), **fields)


def checkpoint(step: int) -> Saved:
    return Saved(step=step, path=f"/{step}", manifest="ab" * 32, bytes=1)


class Run:
    """A run's saves, and how often its trainer was asked."""

    def __init__(self, place: Path, **fields: Any) -> None:
        self.checkpoints = place / "checkpoints"
        self.checkpoints.mkdir()
        self.progress = Progress(SaveSchedule(steps=100))
        known = record(**fields)
        self.pins = Pins(self.checkpoints, known.pinned_steps)
        self.requests = CheckpointRequests(known, self.progress, self.pins)

    def begin(self, **start: Any) -> None:
        self.requests.on_start(PID)
        if start:
            self.requests.on_event(start)

    def saves(self, step: int, *, wanted: bool, good: bool = True) -> None:
        self.requests.on_event({"event": "saved", "step": step, "wanted": wanted, "cost_s": 1.5})
        if good:
            self.requests.on_sealed(checkpoint(step))
        else:
            self.requests.on_seal_failed(step, "no space")
            self.requests.on_sealed(None)

    @property
    def asked(self) -> int:
        """How often the trainer was asked for a save."""
        assert set(SENT) <= {(PID, signal.SIGUSR1)}
        return len(SENT)

    @property
    def answer(self) -> tuple[int | None, int | None, str | None]:
        fields = self.progress.fields
        return fields.get("save_served"), fields.get("save_step"), fields.get("save_detail")


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> None:
    SENT.clear()
    monkeypatch.setattr(process_tree, "send", lambda pid, number: SENT.append((pid, number)))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_wish_is_passed_on_once_and_answered_by_the_save_it_made(run: Run, logged: Logged) -> None:
    run.begin(**STARTED)
    for _ in range(3):
        run.requests.on_requests(UserRequests(save=7))
    assert run.asked == 1
    run.saves(10, wanted=False)
    assert run.answer[0] is None, "that one was under way before"
    run.saves(11, wanted=True)
    assert run.answer == (7, 11, "") and logged.take() == ["checkpoint 11 is the requested one"]
    run.requests.on_requests(UserRequests(save=7))
    assert run.asked == 1
    run.requests.on_requests(UserRequests(save=8))
    run.saves(12, wanted=True)
    assert (run.asked, run.answer) == (2, (8, 12, ""))


def test_no_signal_before_the_trainer_understands_it(run: Run) -> None:
    """SIGUSR1 ends a Python that has no handler yet."""
    run.requests.on_requests(UserRequests(save=7))
    run.begin()
    run.requests.on_requests(UserRequests(save=7))
    assert run.asked == 0 and run.progress.fields["save_able"] == "starting"
    run.requests.on_event(STARTED)
    assert run.asked == 1 and run.progress.fields["save_able"] == "yes"


def test_the_next_trainer_is_asked_again_while_it_is_open(run: Run) -> None:
    run.begin(**STARTED)
    run.requests.on_requests(UserRequests(save=7))
    run.requests.on_event({"event": "saved", "step": 5, "wanted": True})
    run.begin(**STARTED)
    assert run.asked == 2
    run.requests.on_sealed(checkpoint(5))
    assert run.answer[0] is None, "a save of the life before, which was read anew"
    run.saves(6, wanted=True)
    assert run.answer == (7, 6, "")


def test_a_lerobot_that_cant_be_hooked_says_so(run: Run) -> None:
    run.begin(event="start", hooked=False)
    assert run.progress.fields["save_able"] == "no"
    run.requests.on_requests(UserRequests(save=7))
    assert run.asked == 0 and run.answer == (7, None, NOT_HOOKED)


def test_a_save_that_does_not_verify_is_an_answer_too(run: Run) -> None:
    run.begin(**STARTED)
    run.requests.on_requests(UserRequests(save=7, pin=True))
    run.saves(9, wanted=True, good=False)
    assert run.answer == (7, None, "Could not verify checkpoint 9: no space")
    assert run.pins.steps == frozenset()


@pytest.mark.parametrize(("resumed_at", "answered"), [(50, True), (49, False)])
def test_what_its_runner_did_not_live_to_tell_is_answered_by_what_is_resumed_from(
    tmp_path: Path, resumed_at: int, answered: bool
) -> None:
    run = Run(tmp_path, save_wish=7, save_at=50)
    run.requests.on_resume(checkpoint(resumed_at))
    run.begin(**STARTED)
    run.requests.on_requests(UserRequests(save=7))
    assert (run.asked, run.answer[0]) == ((0, 7) if answered else (1, None))


def test_what_was_answered_in_an_earlier_run_is_not_wished_again(tmp_path: Path) -> None:
    run = Run(tmp_path, save_wish=7, save_served=7)
    run.begin(**STARTED)
    run.requests.on_requests(UserRequests(save=7))
    assert run.asked == 0


def test_a_pinned_one_is_spared_before_the_queue_has_heard_of_it(run: Run) -> None:
    run.begin(**STARTED)
    run.requests.on_requests(UserRequests(save=7, pin=True, pinned_steps=(3,)))
    run.saves(9, wanted=True)
    assert run.pins.steps == {3, 9} == pins.read(run.checkpoints)
    # A report that was on its way before the answer.
    run.requests.on_requests(UserRequests(save=7, pin=True, pinned_steps=(3,)))
    assert run.pins.steps == {3, 9}
    run.requests.on_requests(UserRequests(pinned_steps=(9,)))
    assert run.pins.steps == {9} == pins.read(run.checkpoints)
    run.requests.on_requests(UserRequests())
    assert pins.read(run.checkpoints) == frozenset() and not list(run.checkpoints.iterdir())


def test_a_disk_that_takes_no_pins_ends_nothing(tmp_path: Path, logged: Logged) -> None:
    run = Run(tmp_path)
    run.checkpoints.rmdir()
    run.requests.on_requests(UserRequests(pinned_steps=(3,)))
    assert logged.take() == [] and not run.checkpoints.exists(), "LeRobot makes its directory itself"
    (run.checkpoints / "pi0q.kept.json").mkdir(parents=True)
    run.requests.on_requests(UserRequests(pinned_steps=(3, 4)))
    assert "could not write down which checkpoints are pinned" in logged.take()[0] and run.pins.steps == {3, 4}


def test_what_saves_cost_is_known_and_said_once(tmp_path: Path, logged: Logged) -> None:
    run = Run(tmp_path, spec={"checkpoints": {"every": "1.0s"}, "train": {"save_freq": 2}})
    run.progress.update(step_seconds=0.5)
    run.begin(**STARTED)
    run.saves(2, wanted=False)
    run.saves(4, wanted=False)
    assert run.progress.fields["save_seconds"] == 1.5
    clock, steps = logged.take()
    assert "saves by the clock come every 74 s instead of every 1 s" in clock and "save_freq: 2 costs 60%" in steps
