"""Held-out loss: the best checkpoint and the early stop, on the fake LeRobot and by the state alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.trainer.pi0q_trainer import held_out
from pi0q.workers.trainer.pi0q_trainer.held_out import HeldOut, SaveDecision
from tests.workers.trainer.pi0q_trainer.test_hook import Run, Starter
from tests.workers.trainer.pi0q_trainer.test_hook import start as start

LOSSES = {2: 0.9, 4: 0.5, 6: 0.7, 8: 0.4, 10: 0.6, 12: 0.45, 14: 0.41, 16: 0.1}
ENV = {
    "FAKE_EVAL_LOSSES": json.dumps({str(step): loss for step, loss in LOSSES.items()}),
    "PI0Q_BEST": "eval_loss",
    "PI0Q_PATIENCE": "3",
}
FLAGS = ("--steps=20", "--save_freq=1000", "--eval_steps=2", "--dataset.eval_split=0.2")


def evaluations(run: Run) -> list[tuple[int, float, bool]]:
    return [(event["step"], event["eval_loss"], event["best"]) for event in run.all("evaluated")]


def test_each_best_loss_is_saved_and_patience_ends_the_training(start: Starter) -> None:
    run = start(*FLAGS, **ENV)
    assert run.finish() == 78
    assert evaluations(run) == [(step, LOSSES[step], step in (2, 4, 8)) for step in (2, 4, 6, 8, 10, 12, 14)]
    # Those that were the best, and the last one: from it the job could go on.
    assert start.saved() == ["000002", "000004", "000008", "000014"]
    assert run.events[-1] | {"t": 0} == {
        "event": "early_stop", "t": 0, "step": 14, "best_loss": 0.4, "best_step": 8, "since_best": 3,
    }  # fmt: skip


def test_without_patience_it_trains_to_its_last_step(start: Starter) -> None:
    run = start(*FLAGS, **{**ENV, "PI0Q_PATIENCE": ""})
    assert run.finish() == 0
    assert run.all("evaluated")[-1]["best_step"] == 16 and start.saved()[-1] == "000020"


def test_without_best_evaluations_are_told_and_save_nothing(start: Starter) -> None:
    run = start(*FLAGS, FAKE_EVAL_LOSSES=ENV["FAKE_EVAL_LOSSES"])
    assert run.finish() == 0
    assert len(evaluations(run)) == 10 and not any(best for _, _, best in evaluations(run))
    assert start.saved() == ["000020"]


@pytest.mark.parametrize("fault", ["kill@7", "kill@11", "killsave@8", "killsave@14"])
def test_a_killed_training_counts_as_if_it_never_was(start: Starter, fault: str) -> None:
    """The state lies in the checkpoint: evaluations after it come again with the same losses, and count once."""
    whole = start(*FLAGS, f"--output_dir={start.place / 'whole'}", **ENV)
    killed = start(*FLAGS, FAKE_FAULT=fault, **ENV)
    assert (whole.finish(), killed.finish()) == (78, -9)
    done = [step for step in start.saved() if (start.output / "checkpoints" / step / FINISHED).exists()]
    config = start.output / "checkpoints" / done[-1] / "pretrained_model/train_config.json"
    resumed = start.raw(f"--config_path={config}", "--resume=true", **ENV)
    assert resumed.finish() == 78
    last = evaluations(killed)[: [step for step, _, _ in evaluations(killed)].index(int(done[-1])) + 1]
    assert last + evaluations(resumed) == evaluations(whole)
    assert resumed.events[-1] | {"t": 0} == whole.events[-1] | {"t": 0}


FINISHED = "pi0q.manifest.json.saved"


def test_one_that_was_killed_between_its_last_save_and_its_end_ends_at_once(start: Starter) -> None:
    assert start(*FLAGS, **ENV).finish() == 78
    again = start.resume(**ENV)
    assert again.finish() == 78
    assert again.kinds() == ["start", "ready", "early_stop"]
    # With more patience it goes on.
    further = start.resume(**{**ENV, "PI0Q_PATIENCE": "5"})
    assert further.finish() == 0 and evaluations(further)[0] == (16, 0.1, True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "training_state").mkdir()
    yield tmp_path


def test_of_equal_losses_the_first_is_the_best_and_nan_is_none() -> None:
    state = HeldOut(save_best=True, patience=3)
    assert [state.add(step, loss) for step, loss in ((1, float("nan")), (2, 0.5), (3, 0.5), (4, float("inf")))] == [
        False, True, False, False,
    ]  # fmt: skip
    assert (state.step, state.since, state.exhausted) == (2, 2, False)
    assert not state.add(5, 0.6) and state.exhausted


@pytest.mark.parametrize("text", ["", "[]", '{"loss": "x"}', '{"loss": 1, "step": 2, "since": null, "count": 1}'])
def test_a_damaged_state_counts_as_none(checkpoint: Path, text: str) -> None:
    (checkpoint / "training_state" / held_out.STATE).write_text(text)
    state = HeldOut()
    state.load(checkpoint)
    assert (state.loss, state.step, state.since, state.count) == (None, None, 0, 0)


def test_the_decision_is_made_once_with_the_loss_of_who_asks() -> None:
    seen: list[float | None] = []

    def decide(loss: float | None) -> bool:
        seen.append(loss)
        return True

    decision = SaveDecision(decide)
    eval_loss = 0.123456789
    assert seen == [] and decision and decision
    assert seen == [eval_loss]
