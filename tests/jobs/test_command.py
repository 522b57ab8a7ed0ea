"""The trainer's command line, compared as data."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
import yaml

from pi0q.jobs import spec
from pi0q.jobs.command import Command, fresh, misfit, resumed
from pi0q.jobs.spec import Spec
from tests import guide

HERE: dict[str, Any] = {"lerobot": "0.6.1", "output_dir": "/d/runs/1/output", "run_id": "pi0q1"}


def job(train: str, rest: str = "") -> Spec:
    return spec.parse(f"name: x\n{rest}train: {{dataset.repo_id: me/d, {train}}}\n", filename="x.yaml")


def example(name: str) -> Spec:
    text = resources.files("pi0q.jobs.examples").joinpath(f"{name}.yaml").read_bytes()
    return spec.parse(text, filename=f"{name}.yaml")


def flags(command: Command) -> dict[str, str]:
    assert command.argv[0] == "lerobot-train"
    pairs = [item.partition("=")[::2] for item in command.argv[1:]]
    assert len(dict(pairs)) == len(pairs), "a flag is given twice"
    assert all(name.startswith("--") for name, _ in pairs)
    return {name[2:]: value for name, value in pairs}


def test_grab_box_is_the_guides_command() -> None:
    argv = fresh(example("grab_box"), **HERE).argv
    assert guide.as_pi0q_runs_it("/d/runs/1/output") <= set(argv)


def test_what_pi0q_adds_comes_last_and_is_little() -> None:
    argv = fresh(example("grab_box"), **HERE).argv

    assert argv[-4:] == (
        "--output_dir=/d/runs/1/output",
        "--wandb.run_id=pi0q1",
        "--wandb.disable_artifact=true",
        "--env_eval_freq=0",
    )
    assert len(argv) == 1 + 18 + 4


def test_flags_keep_the_files_order() -> None:
    argv = fresh(job("steps: 5, policy.type: act, batch_size: 2"), **HERE).argv

    assert argv[1:5] == ("--dataset.repo_id=me/d", "--steps=5", "--policy.type=act", "--batch_size=2")


@pytest.mark.parametrize(
    ("version", "given", "absent"),
    [
        ("0.4.4", "eval_freq", "env_eval_freq"),
        ("0.5.1", "eval_freq", "env_eval_freq"),
        ("0.6.1", "env_eval_freq", "eval_freq"),
    ],
)
def test_evaluation_is_off_by_the_name_that_version_knows(version: str, given: str, absent: str) -> None:
    told = flags(fresh(job("policy.type: act"), **HERE | {"lerobot": version}))

    assert told[given] == "0"
    assert absent not in told


def test_without_wandb_nothing_is_said_of_it() -> None:
    assert not [name for name in flags(fresh(job("policy.type: act"), **HERE)) if name.startswith("wandb.")]


def test_who_asks_for_artifacts_gets_them() -> None:
    told = flags(fresh(job("policy.type: act, wandb: {enable: true, disable_artifact: false}"), **HERE))

    assert told["wandb.disable_artifact"] == "false"


def test_no_trainer_pushes() -> None:
    """LeRobot pushes by default, and fails there after all of the training; the box does it apart."""
    asked = "policy.type: act, policy.repo_id: me/p, policy.push_to_hub: true"
    for text in ("policy.type: act", "policy.type: act, policy.repo_id: me/p", asked):
        assert flags(fresh(job(text), **HERE))["policy.push_to_hub"] == "false"
        assert flags(resumed(job(text), checkpoint="/c/000002", **HERE))["policy.push_to_hub"] == "false"


def test_the_job_names_its_wandb_run() -> None:
    assert flags(fresh(job("policy.type: act"), **HERE))["job_name"] == "x"
    assert flags(fresh(job("policy.type: act, job_name: other"), **HERE))["job_name"] == "other"


def test_the_dataset_root_of_the_box_wins() -> None:
    told = flags(fresh(job("policy.type: act, dataset.root: d/x"), dataset_root="/h/d/x", **HERE))

    assert told["dataset.root"] == "/h/d/x"


def test_resuming_names_the_config_file_and_the_new_place() -> None:
    told = flags(resumed(example("grab_box"), checkpoint="/d/runs/1/output/checkpoints/020000/", **HERE))

    assert list(told)[:2] == ["config_path", "resume"]
    assert told["config_path"] == "/d/runs/1/output/checkpoints/020000/pretrained_model/train_config.json"
    assert told["resume"] == "true"
    assert told["output_dir"] == "/d/runs/1/output"
    assert told["wandb.run_id"] == "pi0q1"
    assert (told["steps"], told["batch_size"], told["save_freq"]) == ("50000", "32", "20000")


def test_resuming_leaves_the_policys_shape_to_the_checkpoint() -> None:
    """`policy.path` would even make LeRobot forget that it resumes."""
    by_path = job("policy: {path: me/p, dtype: bfloat16}")
    told = flags(resumed(by_path, checkpoint="/c", **HERE))
    grab_box = flags(resumed(example("grab_box"), checkpoint="/c", **HERE))

    assert not {"policy.path", "policy.dtype", "policy.type"} & set(told)
    assert {name for name in grab_box if name.startswith("policy.")} == {
        "policy.device",
        "policy.compile_model",
        "policy.gradient_checkpointing",
        "policy.push_to_hub",
        "policy.repo_id",
    }


def test_resuming_leaves_optimizer_and_adapter_to_the_checkpoint() -> None:
    mine = job(
        "policy: {type: pi0, pretrained_path: lerobot/pi0}, use_policy_training_preset: false, peft: {r: 8},"
        "optimizer: {type: adamw, lr: 1e-4}, scheduler: {type: diffuser}"
    )
    told = flags(resumed(mine, checkpoint="/c", **HERE))

    assert not [name for name in told if name.partition(".")[0] in ("optimizer", "scheduler", "peft")]
    assert "use_policy_training_preset" not in told


# ---- the traps of a resume (LeRobot's issues, or what its sources do)


def test_what_the_order_of_the_data_hangs_on_is_the_same_in_every_attempt() -> None:
    """LeRobot's sampler goes on rightly only with the batch size, the seed and the episodes that it began with."""
    mine = job("policy.type: act, batch_size: 4, seed: 7, num_workers: 3, dataset.episodes: [1, 2]")
    first, again = flags(fresh(mine, **HERE)), flags(resumed(mine, checkpoint="/c", **HERE | {"output_dir": "/e"}))

    kept = ("batch_size", "seed", "num_workers", "dataset.episodes", "dataset.repo_id")
    assert {name: first[name] for name in kept} == {name: again[name] for name in kept}


def test_an_attempt_without_network_does_not_keep_the_next_one_offline() -> None:
    """The checkpoint of the first says `wandb.mode: offline`, and what a resume is not told comes from there."""
    online = job("policy.type: act, wandb: {enable: true}")
    offline = job("policy.type: act, wandb: {enable: true, mode: offline}")

    assert flags(resumed(online, checkpoint="/c", **HERE))["wandb.mode"] == "online"
    assert flags(resumed(offline, checkpoint="/c", **HERE))["wandb.mode"] == "offline"
    assert "wandb.mode" not in flags(resumed(job("policy.type: act"), checkpoint="/c", **HERE))


def test_the_resume_says_again_what_the_first_attempt_was_told() -> None:
    """WandB's run (LeRobot would look for it among files), nothing pushed unasked, no model as an artifact."""
    told = flags(resumed(job("policy.type: act, wandb: {enable: true}"), checkpoint="/c", **HERE))

    assert told["wandb.run_id"] == "pi0q1"
    assert told["wandb.disable_artifact"] == "true"
    assert told["policy.push_to_hub"] == "false"
    assert told["env_eval_freq"] == "0"


def test_a_checkpoint_of_another_box_is_written_on_where_this_box_writes() -> None:
    """Output directory and dataset come from the command line: the checkpoint names the other box's."""
    there = {**HERE, "output_dir": "/new/output", "dataset_root": "/new/data"}
    told = flags(resumed(job("policy.type: act, dataset.root: d/x"), checkpoint="/copy/000020", **there))

    assert (told["output_dir"], told["dataset.root"]) == ("/new/output", "/new/data")
    assert told["config_path"].startswith("/copy/000020/")


def test_the_fallback_to_step_0_is_the_first_attempt_again() -> None:
    """Where no checkpoint is good: nothing of a resume, the same WandB run."""
    told = fresh(job("policy.type: act, wandb: {enable: true}"), **HERE)

    assert not {"config_path", "resume"} & set(flags(told))
    assert flags(told)["wandb.run_id"] == "pi0q1"


@pytest.mark.parametrize(
    ("made", "here", "fits"),
    [
        ("0.6.1", "0.6.0", True),
        ("0.4.4", "0.6.1", False),
        ("0.6.1", "0.4.4", False),
        ("", "0.6.1", True),
        ("0.5.0", "0.5.1", True),
        ("0.5.1", "0.7.0", False),
        ("0.7.0", "0.8.0", False),
        ("0.7.0", "0.7.0", True),
    ],
)
def test_a_checkpoint_is_gone_on_from_by_the_line_of_lerobot_that_made_it(made: str, here: str, fits: bool) -> None:
    said = misfit(made, here)

    assert (said == "") == fits
    assert fits or (made in said and here in said)


# ---- reward models


def test_a_reward_model_is_trained_by_its_own_flags() -> None:
    asked = "reward_model: {type: sarm, device: cpu, repo_id: me/progress}"
    told = fresh(job(asked), **HERE)

    assert "--reward_model.type=sarm" in told.argv
    assert flags(told)["reward_model.push_to_hub"] == "false"
    assert not [name for name in flags(told) if name.startswith("policy.")]
    assert "OMP_NUM_THREADS" not in told.env


def test_a_reward_models_shape_comes_from_its_checkpoint() -> None:
    mine = job("reward_model: {type: sarm, hidden_dim: 24, device: cpu, pretrained_path: a/b}")
    told = flags(resumed(mine, checkpoint="/c/000010", **HERE))

    assert told["reward_model.device"] == "cpu"
    assert not {"reward_model.type", "reward_model.hidden_dim", "reward_model.pretrained_path"} & set(told)


# ---- image transforms


def test_a_part_of_the_transforms_changes_lerobots_own() -> None:
    changed = job("policy.type: act, dataset.image_transforms: {tfs.affine.weight: 0, tfs.hue.weight: 2.5}")
    given = yaml.safe_load(flags(fresh(changed, **HERE))["dataset.image_transforms.tfs"])

    assert sorted(given) == ["affine", "brightness", "contrast", "hue", "saturation", "sharpness"]
    assert (given["affine"]["weight"], given["affine"]["type"]) == (0, "RandomAffine")
    assert (given["hue"]["weight"], given["hue"]["kwargs"]) == (2.5, {"hue": [-0.05, 0.05]})


def test_whole_transforms_replace_lerobots_own() -> None:
    tfs = "{blur: {weight: 1.0, type: GaussianBlur, kwargs: {kernel_size: 5}}}"
    given = flags(fresh(job(f"policy.type: act, dataset.image_transforms.tfs: {tfs}"), **HERE))

    assert yaml.safe_load(given["dataset.image_transforms.tfs"]) == yaml.safe_load(tfs)


# ---- rehearsals


def test_a_rehearsal_is_small_and_stays_at_home() -> None:
    told = flags(fresh(replace(example("grab_box"), rehearsal=True), **HERE))

    expected = {
        "steps": "20",
        "save_freq": "10",
        "log_freq": "1",
        "batch_size": "2",
        "num_workers": "0",
        "policy.push_to_hub": "false",
        "policy.compile_model": "false",
        "policy.gradient_checkpointing": "false",
        "policy.dtype": "bfloat16",
        "wandb.mode": "offline",
    }
    assert {name: told[name] for name in expected} == expected
    assert "policy.pretrained_path" not in told


def test_a_rehearsal_keeps_smaller_numbers() -> None:
    told = flags(fresh(job("policy.type: act, steps: 7, save_freq: 2, batch_size: 1", "rehearsal: true\n"), **HERE))

    assert (told["steps"], told["save_freq"], told["batch_size"]) == ("7", "2", "1")


def test_a_rehearsal_drops_what_needs_the_weights() -> None:
    """LeRobot 0.6 refuses rename_map, and adapters, without weights to start from."""
    mine = job(
        "policy: {type: pi0, pretrained_path: a/b, pretrained_revision: v1}, rename_map: {a: b}, peft: {r: 8}",
        "rehearsal: true\n",
    )
    told = flags(fresh(mine, **HERE))

    assert not {"rename_map", "peft.r", "policy.pretrained_revision"} & set(told)


def test_the_trainers_hook_is_told_of_a_rehearsal() -> None:
    assert fresh(example("quickstart"), **HERE).env["PI0Q_REHEARSAL"] == "1"
    assert "PI0Q_REHEARSAL" not in fresh(example("grab_box"), **HERE).env


def test_threads_are_the_guides_on_a_gpu_and_free_on_the_cpu() -> None:
    assert fresh(example("grab_box"), **HERE).env["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in fresh(example("act"), **HERE).env


def test_the_environment_holds_no_secret_and_no_path() -> None:
    env = fresh(example("grab_box"), **HERE).env

    assert set(env) == {"OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY"}


# ---- values, as LeRobot reads them back: as YAML on a fresh start, as JSON on a resume


def as_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.parametrize(
    "notes",
    [
        "plain",
        "two words",
        "a: b",
        "[x]",
        "{x",
        "'",
        'say "hi"',
        "back\\slash",
        "# no comment",
        "!x /etc/passwd",
        "*alias",
        "&a",
        "<<",
        "yes",
        "null",
        "~",
        "1e5",
        "010",
        "NaN",
        "2026-11-22",
        "$(reboot); rm -rf /",
        "-x",
        "--resume=true",
        "ж 📦",
        "cuda:0",
        "todo:",
    ],
)
def test_text_arrives_as_written(notes: str) -> None:
    mine = spec.parse(
        json.dumps({"train": {"dataset.repo_id": "a/b", "policy.type": "act", "wandb.notes": notes}}),
        filename="x.yaml",
    )
    written = flags(fresh(mine, **HERE))["wandb.notes"]

    assert yaml.safe_load(written) == notes
    assert as_json(written) == notes


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("policy.optimizer_lr", 1e-05),
        ("policy.optimizer_lr", 0.5),
        ("policy.optimizer_betas", [0.9, 1e-05]),
        ("policy.push_to_hub", False),
        ("seed", None),
        ("dataset.episodes", [0, 12]),
        ("dataset.episodes", []),
        ("rename_map", {"observation.images.a": "b: c"}),
        ("policy.relative_exclude_joints", ["yes", "a b"]),
        ("peft.target_modules", r"(.*\.(q|v)_proj|model\.state_proj)"),
        ("peft.target_modules", ["q_proj", "no"]),
        ("policy.input_features", {"observation.state": {"type": "STATE", "shape": [14]}}),
        ("policy.input_features", None),
        ("sample_weighting.extra_params", {"a": [1, 0.5, None, True, "on"]}),
    ],
)
def test_other_values_arrive_with_their_type(flag: str, value: object) -> None:
    data = {"train": {"dataset.repo_id": "a/b", "policy.type": "pi0", "policy.pretrained_path": "a/b", flag: value}}
    written = flags(fresh(spec.parse(json.dumps(data), filename="x.yaml"), **HERE))[flag]

    assert yaml.safe_load(written) == value
    assert as_json(written) == value


def test_mixed_precision_reaches_accelerate_through_the_environment() -> None:
    mixed = job("policy.type: act", "launch: {mixed_precision: bf16}\n")
    assert Spec.from_json(mixed.to_json()) == mixed
    assert fresh(mixed, **HERE).env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert resumed(mixed, checkpoint="/c/10", **HERE).env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    plain = job("policy.type: act")
    assert "ACCELERATE_MIXED_PRECISION" not in fresh(plain, **HERE).env and "launch" not in plain.to_json()
