"""The train_config.json of a checkpoint becomes a job file."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.importer import import_text
from pi0q.jobs.spec import parse

#: As LeRobot 0.6.1 saves it for ACT, with all its defaults.
CONFIG: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "train_config.json").read_text("utf-8"))


def changed(**values: Any) -> str:
    """The configuration with other values, by dotted name with `__` for the dot."""
    config = deepcopy(CONFIG)
    for name, value in values.items():
        *sections, last = name.split("__")
        at = config
        for section in sections:
            at = at[section]
        at[last] = value
    return json.dumps(config, indent=4)


def test_settings_are_kept_and_those_of_pi0q_left_out() -> None:
    made = import_text(changed(output_dir="outputs/x", wandb__run_id="abc", steps=300, policy__optimizer_lr=2e-5))
    assert made.faults == ()
    train = parse(made.text, filename="x").train
    assert (train["steps"], train["policy.optimizer_lr"], train["policy.dim_model"]) == (300, 2e-5, 512)
    assert not {"output_dir", "wandb.run_id", "env_eval_freq", "optimizer.lr", "resume"} & set(train)
    told = [note.text.partition(":")[0].removeprefix("left out ") for note in made.notes]
    assert {"output_dir", "wandb.run_id", "env_eval_freq", "eval", "job", "optimizer"} <= set(told)


def test_null_stays_only_where_lerobot_would_take_something_else() -> None:
    text = changed(seed=None, policy__pretrained_backbone_weights=None, dataloader_multiprocessing_context=None)
    train = parse(import_text(text).text, filename="x").train
    null = {name for name, value in train.items() if value is None}
    assert null == {"seed", "policy.pretrained_backbone_weights", "dataloader_multiprocessing_context"}


def test_a_note_names_the_line_of_the_file() -> None:
    text = changed(output_dir="outputs/x")
    line = next(at for at, row in enumerate(text.splitlines(), 1) if '"output_dir"' in row)
    assert [note.line for note in import_text(text).notes if "output_dir" in note.text] == [line]


def test_a_setting_that_no_job_can_have_is_a_fault_on_its_line() -> None:
    text = changed(policy__action_tokenizer_name="evil/code")
    line = next(at for at, row in enumerate(text.splitlines(), 1) if "evil/code" in row)
    (fault,) = import_text(text).faults
    assert fault.line == line and "runs code" in fault.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"type": "act", "n_obs_steps": 1}', "no train_config.json of a checkpoint (the policy's config.json?"),
        ('{"a": 1}', "is JSON, but no train_config.json"),
        ('{"dataset": {', "is JSON that can't be read"),
    ],
)
def test_other_json_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        import_text(text, name="config.json")
    assert str(refused.value).startswith("config.json") and told in str(refused.value)
