"""The flag table: that it is whole, that it speaks plainly, and that it is true."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pi0q.jobs import flags
from pi0q.jobs.flag import ALL, POLICIES, VERSIONS
from pi0q.jobs.flags import DENIED, FLAGS, problems
from pi0q.jobs.kinds import Value
from tests import guide


@pytest.mark.parametrize("name", [name for name in guide.FLAGS if name != "output_dir"])
@pytest.mark.parametrize("version", VERSIONS.values())
def test_every_lerobot_takes_the_guides_flags(name: str, version: str) -> None:
    assert problems({"policy.type": "pi0", name: "x"} if name != "policy.type" else {name: "pi0"}, version) == []


def test_each_flag_has_one_sentence_and_someone_who_knows_it() -> None:
    for name, flag in FLAGS.items():
        assert flag.says[0].isupper() or flag.says.startswith(("`", "torch")), name
        assert flag.says.endswith("."), name
        assert set(flag.known) == set(VERSIONS), name
        assert any(flag.known.values()), name
        assert all(policies <= ALL for policies in flag.known.values()), name


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


def test_a_release_between_is_held_to_what_both_know() -> None:
    train: dict[str, Value] = {"policy.type": "act", "steps": 2}

    assert problems(train, "0.5.1") == []
    assert problems({"prefetch_factor": 2}, "0.5.1") == [
        "prefetch_factor is unknown to LeRobot 0.5.1; LeRobot 0.6 has it"
    ]


def test_renaming_needs_weights_in_the_new_lerobot() -> None:
    train: dict[str, Value] = {"policy.type": "act", "rename_map": {"a": "b"}}

    assert "set policy.pretrained_path" in problems(train, "0.6.1")[0]
    assert problems(train | {"policy.pretrained_path": "a/b"}, "0.6.1") == []
    assert problems(train, "0.4.4") == []


def test_a_denied_flag_in_a_record_is_a_problem() -> None:
    assert "own directory" in problems({"output_dir": "/etc"}, "0.6.1")[0]


def test_a_misfit_names_who_it_fits() -> None:
    told = flags.misfit("policy.kl_weight", "pi0", FLAGS["policy.kl_weight"].known)

    assert told == "is not a setting of pi0, but of act; leave it out"


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_settings_of_its_own_or_its_family(policy: str) -> None:
    assert [name for name, flag in FLAGS.items() if policy in flag.known["0.6"] and flag.known["0.6"] != ALL]


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="no LeRobot in this interpreter")
def test_the_table_is_what_the_installed_lerobot_knows() -> None:
    """Its config classes, their defaults, and its own parser given every flag at once."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("real_flags.py")

    run = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=900)

    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1]) == []
