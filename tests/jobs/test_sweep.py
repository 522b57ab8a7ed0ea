"""Sweeps in a job file: which values, which trial is which, what is refused, and what lies inside."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs import sweep_trials
from pi0q.jobs.errors import SpecError
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.sweep import Sweep

TRAIN = {"dataset.repo_id": "me/data", "policy": {"type": "act", "push_to_hub": False}, "steps": 10}


def read(sweep: Any, **train: Any) -> Spec:
    text = json.dumps({"name": "a", "sweep": sweep, "train": {**TRAIN, **train}})
    return sweep_trials.checked(parse(text, filename="a.yaml"), "a.yaml")


def space(sweep: Any) -> Sweep:
    found = read(sweep).sweep
    assert found is not None
    return found


def test_grid_is_every_combination_with_the_last_key_fastest() -> None:
    grid = space({"train.seed": [1, 2], "train": {"batch_size": [8, 16, 32]}})
    assert grid.total == 6
    assert [tuple(grid.values(number).values()) for number in range(1, 7)] == [
        (1, 8), (1, 16), (1, 32), (2, 8), (2, 16), (2, 32),
    ]  # fmt: skip


def test_list_takes_the_values_side_by_side() -> None:
    listed = space({"kind": "list", "space": {"train.seed": [1, 2], "train.batch_size": [8, 16]}})
    assert [tuple(listed.values(number).values()) for number in (1, 2)] == [(1, 8), (2, 16)] and listed.total == 2


def test_random_is_the_same_for_the_same_seed_and_inside_its_range() -> None:
    dice = {"kind": "random", "trials": 50, "train.policy.optimizer_lr": {"from": 1e-5, "to": 1e-3, "log": True}}
    one, same, other = space(dice), space(dice), space({**dice, "seed": 2})
    values = [one.values(number)["train.policy.optimizer_lr"] for number in range(1, 51)]
    assert values == [same.values(number)["train.policy.optimizer_lr"] for number in range(1, 51)]
    assert all(1e-5 <= float(str(value)) <= 1e-3 for value in values) and len(set(map(str, values))) > 40
    assert values != [other.values(number)["train.policy.optimizer_lr"] for number in range(1, 51)]
    assert 10 < sum(float(str(value)) < 1e-4 for value in values) < 40


def test_random_of_listed_values_takes_no_combination_twice() -> None:
    some = space({"kind": "random", "trials": 9, "train.seed": [1, 2, 3], "train.batch_size": [8, 16, 32]})
    assert len({tuple(some.values(number).items()) for number in range(1, 10)}) == 9
    assert space({"kind": "random", "trials": 9, "train.seed": [1, 2]}).total == 2


def test_sweep_survives_its_record() -> None:
    sweep = {
        "train.seed": [1, 2], "resources.vram": ["8GiB", "16GiB"], "time_limit": ["2h"], "max_parallel": 2,
        "metric": "eval_loss",
    }  # fmt: skip
    spec = read(sweep)
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert sweep_trials.trial(spec, 4).resources.vram_mib == 16384


def test_section_may_have_its_only_value_from_the_sweep() -> None:
    text = json.dumps(
        {"name": "a", "sweep": {"train.policy.type": ["act", "diffusion"]}, "train": {"dataset.repo_id": "me/d"}}
    )
    spec = parse(text, filename="a.yaml")
    assert [sweep_trials.trial(spec, number).train["policy.type"] for number in (1, 2)] == ["act", "diffusion"]


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        ({"train.seed": 3}, "train.seed needs a list of values, like [3]"),
        ({"train.seed": [1, -2]}, "train.seed must be a whole number"),
        ({"train.nix": [1]}, "names train.nix, which is not a key"),
        ({"batch_size": [1]}, "did you mean train.batch_size?"),
        ({"name": ["a", "b"]}, "not `name`"),
        ({"seed": 1}, "names no key that varies"),
        ({"train.seed": [1, 1]}, "has `1` twice"),
        ({"train.seed": {"from": 1, "to": 5}}, "takes `kind: random`"),
        ({"train.seed": {"from": 5, "to": 1}, "kind": "random", "trials": 2}, "which is empty"),
        ({"train.policy.optimizer_lr": {"from": 0, "to": 1, "log": True}, "kind": "random", "trials": 2}, "above 0"),
        ({"train.policy.dtype": {"from": 1, "to": 5}, "kind": "random", "trials": 2}, "is no number"),
        ({"train.seed": [1], "kind": "random"}, "needs `trials: N`"),
        ({"train.seed": [1], "trials": 5}, "is for kinds random and tpe"),
        ({"train.seed": [1, 2], "train.batch_size": [1], "kind": "list"}, "as many values of each key"),
        ({"train.seed": [*range(40)], "train.batch_size": [*range(1, 41)]}, "has 1600 trials; 1000 are the most"),
        ({"train.output_dir": ["a"]}, "which is not a key of a job file"),
        (
            {"train.policy.chunk_size": [100], "train.policy.n_action_steps": [50, 200]},
            "trial 2: train.policy.n_action_steps is 200",
        ),
        ([1, 2], "must be a mapping of keys to lists"),
    ],
)
def test_what_is_wrong_is_told(sweep: Any, why: str) -> None:
    with pytest.raises(SpecError) as told:
        read(sweep)
    assert why in str(told.value)


def test_all_faults_are_told_at_once_with_their_lines() -> None:
    lines = ["name: a", "sweep:", "  train.seed: [1, x]", "  train.nix: [1]"]
    text = "\n".join([*lines, "train: {dataset.repo_id: me/d, policy.type: act, steps: -1}"])
    with pytest.raises(SpecError) as told:
        parse(text, filename="a.yaml")
    assert [fault.line for fault in told.value.faults] == [3, 4, 5]


def test_trial_lies_inside_and_nothing_else_does() -> None:
    sweep = read({"train.seed": [1, 2], "train.batch_size": [8, 16]})
    child = sweep_trials.trial(sweep, 3)
    assert sweep_trials.inside(sweep, child)
    why = sweep_trials.why_outside
    assert (
        why(sweep, replace(child, train={**child.train, "seed": 3})) == "train.seed is outside the space of the sweep"
    )
    assert why(sweep, replace(child, train={**child.train, "seed": True})) != ""
    assert why(sweep, replace(child, train={**child.train, "steps": 11})) == "train differs from that of the sweep"
    assert why(sweep, replace(child, time_limit=60.0)) == "time_limit differs from that of the sweep"
    assert "begin with a/" in why(sweep, replace(child, name="b"))
    assert "sweep itself" in why(sweep, replace(child, sweep=sweep.sweep))
    assert "is no sweep" in why(child, child)
