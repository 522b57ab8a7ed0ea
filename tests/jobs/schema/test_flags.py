"""The flag table: that it is whole, that it speaks plainly, and that it is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pi0q.jobs.schema import flags, lerobot_tables
from pi0q.jobs.schema.flag_types import Note
from pi0q.jobs.schema.flags import FLAGS, problems
from pi0q.jobs.schema.forbidden_flags import DENIED, NOT_TRAINED
from pi0q.jobs.schema.lerobot_tables import ALL, RELEASES
from pi0q.jobs.schema.nodes import node_of
from pi0q.jobs.schema.policy_flags import POLICY_NOTES
from pi0q.jobs.schema.train_flags import TRAIN_NOTES
from pi0q.jobs.schema.value_types import Value
from tests import guide, real_lerobot


@pytest.mark.parametrize("name", [name for name in guide.FLAGS if name != "output_dir"])
@pytest.mark.parametrize("version", RELEASES.values())
def test_every_lerobot_takes_the_guides_flags(name: str, version: str) -> None:
    assert problems({"policy.type": "pi0", name: "x"} if name != "policy.type" else {name: "pi0"}, version) == []


@pytest.mark.parametrize("note", [*TRAIN_NOTES, *POLICY_NOTES], ids=lambda note: note.name)
def test_each_note_has_one_sentence_and_a_flag_of_its_name(note: Note) -> None:
    assert note.name in FLAGS
    assert note.says.endswith(".") and note.says[:1] != " "
    assert FLAGS[note.name].says == note.says
    assert note.only is None or note.only <= frozenset[str]().union(*FLAGS[note.name].known.values())


def test_no_flag_has_two_notes() -> None:
    names = [note.name for note in (*TRAIN_NOTES, *POLICY_NOTES)]

    assert len(names) == len(set(names))


def refusals(name: str, value: Value, owner: str) -> list[str]:
    """What is said against this value of a policy's flag."""
    told = list[str]()
    FLAGS[name].kind.read(node_of(value), lambda _, text: told.append(text))
    return told + flags.faults(name, value, owner)


@pytest.mark.parametrize("of", RELEASES)
def test_every_default_of_lerobot_is_taken(of: str) -> None:
    """What LeRobot itself starts with can be written into a job file, but for three that null would leave to chance."""
    told = list[str]()
    for name, owners in lerobot_tables.table(of).items():
        for owner, row in owners.items():
            refused = flags.refused_types(name.partition(".")[0])
            if name not in FLAGS or owner in refused or row.default in ("", "?", "null"):
                continue
            told += [f"{name} of {owner}: {text}" for text in refusals(name, json.loads(row.default), owner)]

    assert told == []


@pytest.mark.parametrize("name", ["dataset.root", "wandb.mode", "policy.input_features", "peft.target_modules", "seed"])
def test_null_is_taken_where_lerobot_takes_it(name: str) -> None:
    assert FLAGS[name].kind.nullable


@pytest.mark.parametrize("name", ["job_name", "policy.device"])
def test_null_is_refused_where_it_would_be_left_to_chance(name: str) -> None:
    assert not FLAGS[name].kind.nullable


def test_what_names_a_path_or_a_repository_is_known_by_hand() -> None:
    """A new text flag can't be used to reach a file or a repository until somebody has looked at it."""
    for text in ("/etc/passwd", "owner/name", "../x", "./x", "~/x", "a\\b"):
        (told,) = refusals("policy.embodiment_tag", text, "groot")
        assert "path or a repository" in told, text


@pytest.mark.parametrize("section", ["policy", "reward_model"])
@pytest.mark.parametrize("name", NOT_TRAINED)
def test_what_lerobot_train_does_not_train_is_refused_by_name(name: str, section: str) -> None:
    assert refusals(f"{section}.type", name, name) == [f"is {name}, which {NOT_TRAINED[name]}"]


@pytest.mark.parametrize("name", flags.trained("reward_model"))
def test_reward_model_as_policy_is_told_the_right_key(name: str) -> None:
    (told,) = refusals("policy.type", name, name)

    assert told == f"is {name}, which is a reward model: write reward_model.type: {name} and leave policy.type out"
    assert name not in flags.trained("policy")


@pytest.mark.parametrize("name", flags.trained("policy"))
def test_policy_as_reward_model_is_told_the_right_key(name: str) -> None:
    (told,) = refusals("reward_model.type", name, name)

    assert f"write policy.type: {name}" in told


def test_refused_type_is_told_whatever_its_capitals() -> None:
    assert refusals("policy.type", "Robometer", "x") == [f"is Robometer, which {NOT_TRAINED['robometer']}"]


def test_setting_of_a_reward_model_is_no_setting_of_a_policy() -> None:
    assert "policy.annotation_mode" not in FLAGS
    assert "did you mean reward_model.annotation_mode?" in flags.unknown("policy.annotation_mode")


def test_nothing_denied_is_in_the_table() -> None:
    assert not [name for name in FLAGS if flags.denial(name)]


@pytest.mark.parametrize(
    "name",
    [
        "output_dir",
        "resume",
        "config_path",
        "job.target",
        "job",
        "env",
        "env.type",
        "env.discover_packages_path",
        "policy.discover_packages_path",
        "discover_packages_path",
        "wandb.run_id",
        "save_checkpoint_to_hub",
    ],
)
def test_denied_with_a_reason(name: str) -> None:
    assert flags.denial(name) in DENIED.values()


@pytest.mark.parametrize("name", ["steps", "jobs", "environment", "policy.type", "resume_now"])
def test_other_names_are_not_denied(name: str) -> None:
    assert flags.denial(name) is None


def test_a_flag_of_the_new_lerobot_is_told_to_the_old_one() -> None:
    train: dict[str, Value] = {"policy.type": "act", "prefetch_factor": 2}

    assert problems(train, "0.5.1") == ["prefetch_factor is unknown to LeRobot 0.5.1; LeRobot 0.6 has it"]
    assert problems(train, "0.4.4") == ["prefetch_factor is unknown to LeRobot 0.4.4; LeRobot 0.6 has it"]
    assert problems(train, "0.6.1") == []


def test_a_flag_that_came_to_one_policy_later() -> None:
    train: dict[str, Value] = {"policy.type": "diffusion", "policy.gradient_checkpointing": True}

    assert problems(train, "0.4.4")
    assert not problems(train, "0.6.1")
    assert not problems(train | {"policy.type": "pi0"}, "0.4.4")


def test_a_release_of_the_same_line_is_held_to_its_line() -> None:
    assert problems({"prefetch_factor": 2}, "0.6.9") == []
    assert problems({"prefetch_factor": 2}, "0.4.0") != []


@pytest.mark.parametrize("version", ["0.7.0", "0.3.3", "1.0", "weird"])
def test_a_release_without_a_table_is_refused_with_a_cure(version: str) -> None:
    (told,) = problems({"policy.type": "act", "steps": 2}, version)

    assert told == flags.unsupported(version)
    assert version in told and "Fix: pip install 'lerobot==0.6.1'" in told


def test_a_policy_that_came_later_is_told_to_the_old_lerobot() -> None:
    train: dict[str, Value] = {"policy.type": "eo1"}

    assert problems(train, "0.5.1") == ["policy.type eo1 is unknown to LeRobot 0.5.1; LeRobot 0.6 has it"]
    assert problems(train, "0.6.0") == []


@pytest.mark.parametrize("version", RELEASES.values())
def test_every_box_refuses_a_reward_model_that_is_called_a_policy(version: str) -> None:
    (told,) = problems({"policy.type": "sarm"}, version)

    assert told.startswith("policy.type is sarm, which is a reward model: write reward_model.type: sarm")


def test_old_lerobot_has_no_section_of_reward_models() -> None:
    assert problems({"reward_model.type": "sarm"}, "0.6.1") == []
    assert problems({"reward_model.type": "sarm"}, "0.5.1") == [
        "reward_model.type is unknown to LeRobot 0.5.1; LeRobot 0.6 has it"
    ]


def test_renaming_needs_weights_in_the_new_lerobot() -> None:
    train: dict[str, Value] = {"policy.type": "act", "rename_map": {"a": "b"}}

    assert "set policy.pretrained_path" in problems(train, "0.6.1")[0]
    assert problems(train | {"policy.pretrained_path": "a/b"}, "0.6.1") == []
    assert problems(train, "0.4.4") == []


def test_a_denied_flag_in_a_record_is_a_problem() -> None:
    assert "own directory" in problems({"output_dir": "/etc"}, "0.6.1")[0]


def test_a_misfit_names_who_it_fits() -> None:
    told = flags.misfit("policy.kl_weight", "pi0")

    assert told == "is not a setting of pi0, but of act; leave it out"


def test_a_value_is_held_to_the_policy_that_is_chosen() -> None:
    assert flags.faults("policy.dtype", "auto", "pi0") == ["must be float32 or bfloat16, not `auto`"]
    assert flags.faults("policy.dtype", "auto", "eo1") == []


def test_a_part_of_a_mapping_has_its_place_in_it() -> None:
    assert flags.place("dataset.image_transforms.tfs.affine.weight") == "dataset.image_transforms.tfs"
    assert flags.place("steps") == "steps"
    assert flags.place("steps.more") is None and flags.place("nonsense") is None


def test_explain_tells_type_default_and_who_has_it() -> None:
    told = flags.explain("policy.dtype")

    assert told is not None
    assert told.defaults["pi0"] == '"float32"' and told.defaults["eo1"] == '"auto"'
    assert told.known["0.4"] == {"pi0", "pi05", "pi0_fast", "xvla"}
    assert told.says == FLAGS["policy.dtype"].says and told.refused == ""


def test_explain_tells_choices_and_what_is_common_to_all() -> None:
    told = flags.explain("wandb.mode")

    assert told is not None
    assert told.choices == ("online", "offline", "disabled") and told.defaults == {ALL: "null"}


def test_explain_tells_why_a_flag_is_refused_and_nothing_of_one_that_is_none() -> None:
    told = flags.explain("output_dir")

    assert told is not None and "own directory" in told.refused
    assert flags.explain("nonsense") is None


@pytest.mark.real
@real_lerobot.NEEDED
def test_the_table_is_what_the_installed_lerobot_knows() -> None:
    """Its config classes, their defaults, and its own parser given every flag at once."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("real_flags.py")

    run = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=900)

    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1]) == []
