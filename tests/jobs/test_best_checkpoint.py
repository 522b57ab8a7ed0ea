"""What a job file and a record say of the best checkpoint on held-out episodes."""

from __future__ import annotations

import pytest

from pi0q.jobs import best_checkpoint, start_point
from pi0q.jobs.best_checkpoint import BEST, Best
from pi0q.jobs.errors import SpecError
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.start_point import Reference

JOB = """
checkpoints: {%s}
train:
  dataset: {repo_id: me/d%s}
  policy: {type: act, push_to_hub: false}
  steps: 100%s
"""
SPLIT, STEPS = ", eval_split: 0.1", "\n  eval_steps: 10"


def faults(*parts: str) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as told:
        parse(JOB % parts, filename="job.yaml")
    return [(fault.key, fault.text) for fault in told.value.faults]


def test_best_and_patience_come_back_from_the_record() -> None:
    spec = parse(JOB % ("best: eval_loss, patience: 5", SPLIT, STEPS), filename="job.yaml")
    assert (spec.checkpoints.best, spec.checkpoints.patience) == ("eval_loss", 5)
    assert Spec.from_json(spec.to_json()) == spec
    # A box with an older pi0q takes a job without them.
    plain = parse(JOB % ("keep: 2", "", ""), filename="job.yaml").to_json()["checkpoints"]
    assert isinstance(plain, dict) and not {"best", "patience"} & plain.keys()


def test_what_best_needs_is_told_with_the_flags_that_lack() -> None:
    ((key, text),) = faults("best: eval_loss", "", "")
    assert key == "checkpoints.best"
    assert text.startswith("needs train.dataset.eval_split and train.eval_steps: ") and "eval_split: 0.1" in text
    assert faults("best: eval_loss", SPLIT, "")[0][1].startswith("needs train.eval_steps: ")
    assert faults("patience: 5", SPLIT, STEPS) == [
        ("checkpoints.patience", "has no effect without checkpoints.best: eval_loss")
    ]
    assert faults("best: loss, patience: 0", SPLIT, STEPS)


def test_words_of_a_training() -> None:
    best = Best(step=2000, loss=0.299, since=2)
    assert best_checkpoint.words(best, 0.3123, 5) == "0.3123, best 0.2990 at step 2000, 2 evaluations ago; ends after 5"
    assert best_checkpoint.words(None, 0.3, None) == "0.3000"
    assert best_checkpoint.words(None, None, 5) == ""


@pytest.mark.parametrize(
    "text", ['{"step": -1, "loss": 1, "since": 0}', '{"step": 1, "loss": "x", "since": 0}', "[]", "{}"]
)
def test_what_pi0q_did_not_write_is_no_best_checkpoint(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        BEST.read(text)


@pytest.mark.parametrize("event", [{}, {"best_step": 1, "best_loss": None, "since_best": 0}, {"best_step": True}])
def test_an_event_without_a_best_loss_tells_none(event: dict[str, object]) -> None:
    assert best_checkpoint.of_event(event) is None


def test_a_reference_to_the_best_checkpoint() -> None:
    reference = start_point.parse("job:grab_box@best")
    assert reference == Reference(job="grab_box", best=True) and str(reference) == "job:grab_box@best"
    assert start_point.fault("job:grab_box@best") is None
