"""`tracking` and `swanlab` of a job file."""

from __future__ import annotations

import pytest

from pi0q.jobs import command, tracking
from pi0q.jobs.errors import SpecError
from pi0q.jobs.spec import Spec, parse

TRAIN = "train: {{dataset: {{repo_id: a/b}}, policy: {{type: act}}{more}}}\n"


def job(keys: str = "", more: str = "") -> Spec:
    return parse(f"{keys}\n{TRAIN.format(more=more)}", filename="x.yaml")


@pytest.mark.parametrize(
    ("keys", "to", "wandb"),
    [
        ("", None, None),
        ("tracking: null", None, None),
        ("tracking: swanlab", ("swanlab",), False),
        ("tracking: wandb", ("wandb",), True),
        ("tracking: both", ("wandb", "swanlab"), True),
        ("tracking: [swanlab, wandb, swanlab]", ("swanlab", "wandb"), True),
        ("tracking: none", (), False),
        ("tracking: off", (), False),
    ],
)
def test_choice_turns_wandb_on_or_off_and_survives_the_record(
    keys: str, to: tuple[str, ...] | None, wandb: bool | None
) -> None:
    spec = job(keys)
    assert spec.tracking.to == to and spec.train.get("wandb.enable") is wandb
    assert Spec.from_json(spec.to_json()) == spec
    # A box with an older pi0q knows neither key.
    assert ("tracking" in spec.to_json()) is (to is not None)


def test_settings_of_swanlab_survive_the_record() -> None:
    spec = job("tracking: both\nswanlab: {project: p, workspace: w, mode: offline}")
    assert spec.tracking == tracking.Tracking(to=("wandb", "swanlab"), project="p", workspace="w", mode="offline")
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("keys", "more", "said"),
    [
        ("tracking: mlflow", "", "x.yaml:1: tracking must be wandb, swanlab, both, none, or a list"),
        ("tracking: {swanlab: true}", "", "not a mapping"),
        ("tracking: none", ", wandb: {enable: true}", "but train.wandb.enable is true; write `tracking: wandb`"),
        ("tracking: swanlab", ", wandb: {enable: true}", "write `tracking: both`"),
        ("tracking: wandb", ", wandb: {enable: false}", "leave one of the two out"),
        ("swanlab: {project: p}", "", "write `tracking: swanlab`"),
        ("tracking: swanlab", ", wandb: {project: a b}", "set swanlab.project"),
        ("tracking: swanlab\nswanlab: {workspace: a.b}", "", "SwanLab takes no other workspace"),
        ("tracking: swanlab\nswanlab: {mode: cloud}", "", "swanlab.mode must be online or offline"),
        ("tracking: swanlab\nswanlab: {projekt: p}", "", "did you mean swanlab.project?"),
        ("swanlab: {enable: true}", "", "swanlab.enable is not taken: write `tracking: swanlab`"),
        ("", ", swanlab: {enable: true}", "write `tracking: swanlab` beside `train`"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_cure(keys: str, more: str, said: str) -> None:
    with pytest.raises(SpecError) as told:
        job(keys, more)
    assert said in str(told.value)


def test_a_choice_that_is_none_is_one_fault() -> None:
    with pytest.raises(SpecError) as told:
        job("tracking: swanlap\nswanlab: {project: p}")
    assert len(told.value.faults) == 1


def test_lerobot_hears_of_wandb_alone() -> None:
    built = command.fresh(job("tracking: both"), lerobot="0.6.1", output_dir="/o", run_id="r")
    assert "--wandb.enable=true" in built.argv
    built = command.fresh(job("tracking: swanlab"), lerobot="0.6.1", output_dir="/o", run_id="r")
    assert "--wandb.enable=false" in built.argv and not any("swanlab" in word for word in built.argv)


def test_project_is_its_own_or_wandbs() -> None:
    assert tracking.project(tracking.Tracking(project="p"), {"wandb.project": "w"}) == "p"
    assert tracking.project(tracking.NOT_CHOSEN, {"wandb.project": "w"}) == "w"
    assert tracking.project(tracking.NOT_CHOSEN, {}) == "lerobot"


def test_run_stays_the_same_when_the_one_at_wandb_was_deleted() -> None:
    assert tracking.run_id("pi0q-a1") == tracking.run_id("pi0q-a1.2") == "pi0q-a1"
