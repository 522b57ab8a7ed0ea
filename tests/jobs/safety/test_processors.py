"""Processor files: LeRobot makes an object of whatever a step names, so a step may name only LeRobot's own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.safety.lerobot_names import NAMES
from pi0q.jobs.safety.processors import judge_processor, names_for
from pi0q.jobs.schema.lerobot_tables import RELEASES
from pi0q.ops.dev import lerobot_names_main

FILE = "policy_preprocessor.json"
VERSIONS = tuple(RELEASES.values())
#: As LeRobot 0.6.1 writes it for ACT.
ACT = [
    {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
    {"registry_name": "to_batch_processor", "config": {}},
    {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
    {
        "registry_name": "normalizer_processor",
        "config": {"eps": 1e-08, "features": {"action": {"type": "ACTION", "shape": [6]}}, "norm_map": {}},
        "state_file": "policy_preprocessor_step_3_normalizer_processor.safetensors",
    },
]


def told(*steps: Any, lerobot: str = "0.6.1") -> list[str]:
    data = json.dumps({"name": "policy_preprocessor", "steps": list(steps)}).encode()
    return [str(finding) for finding in judge_processor(FILE, data, lerobot).findings]


def test_every_release_with_a_table_of_flags_has_its_names() -> None:
    assert NAMES.keys() == RELEASES.keys()


@pytest.mark.parametrize("lerobot", VERSIONS)
def test_what_lerobot_writes_passes(lerobot: str) -> None:
    assert told(*ACT, lerobot=lerobot) == []


@pytest.mark.parametrize("lerobot", VERSIONS)
def test_a_class_that_is_no_step_is_found(lerobot: str) -> None:
    evil = {"class": "subprocess.Popen", "config": {"args": ["sh", "-c", "id"]}}

    assert told(*ACT, evil, lerobot=lerobot) == [
        f"{FILE}, step 5: class 'subprocess.Popen' is no processor step of LeRobot {lerobot}"
    ]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param({"class": "os.system"}, id="a function"),
        pytest.param(
            {"class": "lerobot.envs.utils._load_module_from_path"}, id="a function of LeRobot that runs a file"
        ),
        pytest.param({"class": "lerobot.processor.pipeline.importlib"}, id="a module that LeRobot imports"),
        pytest.param(
            {"class": "lerobot.processor.NormalizerProcessorStep"}, id="a step under a name LeRobot never writes"
        ),
        pytest.param({"class": "lerobot.policies.act.modeling_act.ACTPolicy"}, id="a policy"),
        pytest.param({"class": "lerobot.processor.pipeline.ProcessorStep"}, id="an abstract step"),
        pytest.param({"class": ["subprocess", "Popen"]}, id="no text"),
        pytest.param({"class": ""}, id="empty"),
        pytest.param({}, id="neither"),
        pytest.param({"registry_name": None, "class": "subprocess.Popen"}, id="null is a registry name too"),
        pytest.param({"registry_name": "my_step"}, id="a plug-in's step"),
        pytest.param({"registry_name": {"a": 1}}, id="no name"),
        pytest.param({"registry_name": "normalizer_processor", "config": ["x"]}, id="a config that is no object"),
        pytest.param("subprocess.Popen", id="no object"),
    ],
)
def test_only_lerobots_own_steps_pass(step: Any) -> None:
    assert len(told(step)) == 1


def test_a_class_beside_a_registry_name_is_never_looked_at() -> None:
    assert told({"registry_name": "to_batch_processor", "class": "subprocess.Popen"}) == []


def test_a_step_of_lerobot_may_be_named_by_its_class() -> None:
    assert told({"class": "lerobot.processor.normalize_processor.NormalizerProcessorStep", "config": {}}) == []


def test_a_later_versions_step_is_none_of_an_earlier_one() -> None:
    step = {"registry_name": "evo1_action_processor"}

    assert (told(step), len(told(step, lerobot="0.5.1"))) == ([], 1)


@pytest.mark.parametrize(
    ("lerobot", "line"),
    [
        ("0.4.4", "0.4"),
        ("0.6.0", "0.6"),
        ("0.7.2", "0.6"),
        ("1.0", "0.6"),
        ("0.3.3", "0.4"),
        ("0.6.1+cu128", "0.6"),
        ("?", "0.4"),
    ],
)
def test_a_version_without_a_table_is_held_to_the_one_before(lerobot: str, line: str) -> None:
    assert names_for(lerobot) is NAMES[line]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "x.bin", None, 7])
def test_a_state_file_stays_in_its_directory(name: Any) -> None:
    assert len(told({"registry_name": "normalizer_processor", "state_file": name})) == 1


def code_from(config: dict[str, Any]) -> tuple[list[str], frozenset[str]]:
    data = json.dumps({"steps": [{"registry_name": "action_tokenizer_processor", "config": config}]}).encode()
    verdict = judge_processor(FILE, data, "0.6.1")
    return [str(finding) for finding in verdict.findings], verdict.code_from


def test_the_action_tokenizer_names_a_repository_that_runs_code() -> None:
    config = {"action_tokenizer_name": "mallory/fast", "paligemma_tokenizer_name": "google/paligemma-3b-pt-224"}

    assert code_from(config) == ([], frozenset({"mallory/fast", "google/paligemma-3b-pt-224"}))
    assert code_from({**config, "trust_remote_code": False}) == ([], frozenset())


@pytest.mark.parametrize("name", ["/mnt/share/fast", "./fast", "fast", "a/../b", ["a/b"]])
def test_an_action_tokenizer_in_a_directory_is_found(name: Any) -> None:
    found, repositories = code_from({"action_tokenizer_name": name})

    assert (len(found), repositories) == (1, frozenset())


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("reward_classifier_processor", {"pretrained_path": None}, 0),
        ("reward_classifier_processor", {"pretrained_path": "mallory/reward"}, 1),
        ("robometer_encoder", {}, 1),
        ("tokenizer_processor", {"tokenizer_name": "mallory/words"}, 0),
    ],
)
def test_steps_that_run_a_repositorys_code_by_other_ways_are_found(
    name: str, config: dict[str, Any], count: int
) -> None:
    assert len(told({"registry_name": name, "config": config})) == count


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"[", b"[1]", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a": "' + b"x" * (5 * 1024 * 1024) + b'"}'],
    ids=["no text", "torn", "no object", "byte order mark", "deep", "large"],
)
def test_what_cannot_be_read_is_found(data: bytes) -> None:
    assert len(judge_processor(FILE, data, "0.6.1").findings) == 1


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    data = b'{"steps": [], "steps": [{"registry_name": "to_batch_processor", "registry_name": "x"}]}'

    assert len(judge_processor(FILE, data, "0.6.1").findings) == 1


@pytest.mark.parametrize("data", [b"{}", b'{"steps": "normalize"}'])
def test_a_file_that_lerobot_refuses_runs_nothing(data: bytes) -> None:
    assert judge_processor(FILE, data, "0.6.1").findings == ()


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="no LeRobot in this interpreter")
def test_the_table_is_what_the_installed_lerobot_has() -> None:
    spec = importlib.util.find_spec("lerobot")
    assert spec and spec.origin
    package = Path(spec.origin).parent
    if not list(package.parent.glob("lerobot-*.dist-info")):
        pytest.skip("the LeRobot of this interpreter is a stand-in")
    version, texts = lerobot_names_main.sources(package)

    assert lerobot_names_main.names_of(texts) == vars(names_for(version))
