"""A directory of weights: what LeRobot would run is found, what it never reads is ignored."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from pi0q.jobs.safety import allowed_code
from pi0q.jobs.safety.configs import code_repositories
from pi0q.jobs.safety.findings import Finding, Use, describe
from pi0q.jobs.safety.pretrained import Files, judge, needed

CODE = b"print('hello')\n"
STEPS: dict[str, Any] = {"name": "policy_preprocessor", "steps": [{"registry_name": "to_batch_processor"}]}
TRAIN: dict[str, Any] = {
    "policy": {"type": "act"}, "env": None, "reward_model": None, "job": {"target": None}, "resume": False,
}  # fmt: skip
#: A whole model as LeRobot saves it.
WHOLE: dict[str, Any] = {
    "config.json": {"type": "act", "chunk_size": 8},
    "model.safetensors": b"",
    "policy_postprocessor.json": STEPS,
    "policy_preprocessor.json": STEPS,
    "train_config.json": TRAIN,
}


def found(
    use: Use, files: dict[str, Any], *, lerobot: str = "0.6.1", allowed: frozenset[str] = frozenset()
) -> list[str]:
    raw = {name: of if isinstance(of, bytes) else json.dumps(of).encode() for name, of in files.items()}
    read = {name: raw[name] for name in needed(use, raw)}
    verdict = judge(use, Files(names=frozenset(raw), contents=read, allowed_code=allowed), lerobot)
    return [str(finding) for finding in verdict.findings]


@pytest.mark.parametrize("use", [Use.WEIGHTS, Use.POLICY, Use.CHECKPOINT])
def test_a_model_as_lerobot_saves_it_passes(use: Use) -> None:
    assert found(use, WHOLE) == []


@pytest.mark.parametrize(
    ("use", "files"),
    [
        (Use.WEIGHTS, ("config.json", "policy_postprocessor.json", "policy_preprocessor.json")),
        (Use.POLICY, ("config.json", "policy_postprocessor.json", "policy_preprocessor.json")),
        (Use.CHECKPOINT, ("config.json", "policy_postprocessor.json", "policy_preprocessor.json", "train_config.json")),
        (Use.TOKENIZER, ("config.json",)),
        (Use.CODE, ("config.json",)),
    ],
)
def test_only_files_that_are_read_are_asked_for(use: Use, files: tuple[str, ...]) -> None:
    assert needed(use, [*WHOLE, "README.md", "sub/policy_preprocessor.json", "tokenizer.json"]) == files


@pytest.mark.parametrize("name", ["policy_preprocessor.json", "policy_postprocessor.json"])
@pytest.mark.parametrize("use", [Use.WEIGHTS, Use.POLICY, Use.CHECKPOINT])
def test_code_in_either_processor_is_found(use: Use, name: str) -> None:
    evil = {"steps": [{"class": "subprocess.Popen", "config": {"args": "id"}}]}

    assert found(use, {**WHOLE, name: evil}) == [
        f"{name}, step 1: class 'subprocess.Popen' is no processor step of LeRobot 0.6.1"
    ]


def test_what_lerobot_never_reads_is_ignored() -> None:
    beside = {"modeling_evil.py": CODE, "pytorch_model.bin": b"", "old/policy_preprocessor.json": {"steps": [{}]}}

    assert found(Use.WEIGHTS, WHOLE | beside) == []


def test_a_pickle_in_the_place_of_the_weights_is_found() -> None:
    files = {"adapter_model.bin": b"", "adapter_config.json": {"peft_type": "LORA"}}

    assert "is a pickle" in found(Use.WEIGHTS, files)[0]
    assert found(Use.WEIGHTS, {**files, "adapter_model.safetensors": b""}) == []


def test_a_file_that_was_not_read_does_not_pass() -> None:
    verdict = judge(Use.WEIGHTS, Files(names=frozenset({"model.safetensors", "policy_preprocessor.json"})), "0.6.1")

    assert [finding.what for finding in verdict.findings] == ["was not read"]


@pytest.mark.parametrize(
    ("lerobot", "kind", "count"),
    [
        ("0.6.1", "pi0", 0),
        ("0.6.1", "evo1", 0),
        ("0.5.1", "evo1", 1),
        ("0.6.1", "gaussian_actor", 1),
        ("0.4.4", "sac", 1),
        ("0.6.1", "my_plugin", 1),
        ("0.6.1", None, 1),
    ],
)
def test_a_policys_type_is_one_of_lerobots_that_runs_no_code(lerobot: str, kind: str | None, count: int) -> None:
    """By `policy.path` the type comes out of the repository; by `policy.pretrained_path` it is the job's."""
    files = {**WHOLE, "config.json": {"type": kind}}

    assert len(found(Use.POLICY, files, lerobot=lerobot)) == count
    assert found(Use.WEIGHTS, files, lerobot=lerobot) == []


@pytest.mark.parametrize(
    ("lerobot", "kind", "repositories"),
    [
        ("0.6.1", "act", set()),
        ("0.6.1", "wall_x", {"lerobot/fast-action-tokenizer"}),
        ("0.4.4", "wall_x", {"physical-intelligence/fast"}),
        ("0.6.1", "groot", {"nvidia/Cosmos-Reason2-2B"}),
        ("0.5.1", "groot", {"lerobot/eagle2hg-processor-groot-n1p5"}),
        ("0.6.1", "reward_classifier", {"lerobot/resnet10"}),
        ("0.4.4", "reward_classifier", {"helper2424/resnet10"}),
        ("0.4.4", "pi0_fast", {"physical-intelligence/fast", "google/paligemma-3b-pt-224"}),
    ],
)
def test_the_code_that_a_policy_runs_is_known_by_its_repositories(
    lerobot: str, kind: str, repositories: set[str]
) -> None:
    assert code_repositories(kind, lerobot) == repositories


def test_a_base_of_groot_names_no_code_but_nvidias() -> None:
    """groot takes the repository of its backbone, whose code it runs, out of its base's config.json."""
    assert "'mallory/vlm'" in found(Use.WEIGHTS, {**WHOLE, "config.json": {"model_name": "mallory/vlm"}})[0]
    assert found(Use.WEIGHTS, {**WHOLE, "config.json": {"model_name": "nvidia/Cosmos-Reason2-2B"}}) == []


def test_a_reward_models_checkpoint_is_taken() -> None:
    saved = TRAIN | {"policy": None, "reward_model": {"type": "sarm"}}

    assert found(Use.CHECKPOINT, {**WHOLE, "train_config.json": saved}) == []


def test_an_auto_map_in_the_config_is_found() -> None:
    mapped = {"type": "act", "auto_map": {"AutoModel": "modeling_evil.Evil"}}

    assert found(Use.WEIGHTS, {**WHOLE, "config.json": mapped}) == [
        "config.json, auto_map: names Python code to run (modeling_evil.Evil)"
    ]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"env": {"type": "pusht"}}, "env"),
        ({"reward_model": {"type": "reward_classifier"}}, "reward_model"),
        ({"job": {"target": "h200x8"}}, "job.target"),
        ({"job": "h200"}, "job.target"),
        ({"save_checkpoint_to_hub": True}, "save_checkpoint_to_hub"),
        ({"policy": {"path": "mallory/act"}}, "policy.path"),
        ({"policy": {"type": "gaussian_actor"}}, "policy.type"),
        ({"policy": {"type": "groot", "base_model_path": "mallory/groot"}}, "policy.base_model_path"),
        ({"policy": {"type": "wall_x", "action_tokenizer_path": "/tmp/evil"}}, "policy"),
        ({"policy": None, "reward_model": {"type": "robometer"}}, "reward_model"),
        ({"policy": None, "reward_model": {"type": "reward_classifier", "model_name": "/tmp/evil"}}, "reward_model"),
        ({"policy": None}, "policy"),
    ],
)
def test_a_resume_takes_nothing_dangerous_out_of_its_configuration(change: dict[str, Any], where: str) -> None:
    files = {**WHOLE, "train_config.json": TRAIN | change}

    assert f"train_config.json, {where}: " in found(Use.CHECKPOINT, files)[0]
    assert found(Use.WEIGHTS, files) == []


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LORA", "megatron_config": {}, "megatron_core": "evil"},
        {"peft_type": "XLORA", "adapters": {"a": "mallory/a"}},
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
    ],
)
def test_an_adapter_that_imports_is_found(config: dict[str, Any]) -> None:
    assert len(found(Use.WEIGHTS, {**WHOLE, "adapter_config.json": config})) == 1
    assert (
        found(Use.WEIGHTS, {**WHOLE, "adapter_config.json": {"peft_type": "LORA", "megatron_core": "megatron.core"}})
        == []
    )


TOKENIZER: dict[str, Any] = {
    "tokenizer.json": b"",
    "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizerFast"},
    "config.json": {"model_type": "paligemma"},
}


def test_a_tokenizer_runs_no_code() -> None:
    mapped = {
        **TOKENIZER,
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["evil.Slow", None]}},
        "evil.py": CODE,
    }

    assert found(Use.TOKENIZER, TOKENIZER) == []
    assert found(Use.TOKENIZER, mapped) == ["tokenizer_config.json, auto_map: names Python code to run (evil.Slow)"]


def test_code_runs_only_if_somebody_vouched_for_it() -> None:
    files = {**TOKENIZER, "processor_config.json": {"auto_map": {"AutoProcessor": "fast.Fast"}}, "fast.py": CODE}
    digest = hashlib.sha256(CODE).hexdigest()

    assert found(Use.CODE, files) == [
        f"fast.py: is Python code that is not on the list in PI0Q_ALLOW_CODE (SHA-256 {digest})"
    ]
    assert found(Use.CODE, files, allowed=frozenset({digest})) == []


def test_code_of_a_third_repository_is_found() -> None:
    files = {**TOKENIZER, "processor_config.json": {"auto_map": {"AutoProcessor": "mallory/x--fast.Fast"}}}

    assert "mallory/x--fast.Fast" in found(Use.CODE, files)[0]


def test_pi0_fast_names_its_code_by_default_or_in_its_config() -> None:
    paligemma = "google/paligemma-3b-pt-224"

    assert code_repositories("pi0", "0.6.1") == frozenset()
    assert code_repositories("pi0_fast", "0.4.4") == {"physical-intelligence/fast", paligemma}
    assert code_repositories("pi0_fast", "0.6.1") == {"lerobot/fast-action-tokenizer", paligemma}
    assert code_repositories("pi0_fast", "0.6.1", {"action_tokenizer_name": "a/b"}) == {"a/b", paligemma}


def test_a_list_of_hashes_is_what_sha256sum_prints() -> None:
    one = "ab" * 32

    assert allowed_code.parse(f"# mine\n\n{one}  fast/fast.py\n{one.upper()} *x # read by me\n") == {one}
    with pytest.raises(ValueError, match="line 2"):
        allowed_code.parse(f"{one}\nfast.py\n")


def test_a_strangers_text_cannot_move_the_cursor() -> None:
    text = describe("mallory/act", [Finding(file="a\x1b[2J.json", where="step 1", what="x" * 1000)] * 5)

    assert text.isprintable()
    assert text.startswith("mallory/act would run code on the box, or can't be judged: a?[2J.json, step 1: x")
    assert text.endswith("; and 2 more")
    assert len(text) < 1100


def test_model_read_with_lerobots_own_classes_may_name_code_but_no_other_backbone_of_groot() -> None:
    mapped = {"model_type": "molmoact2", "auto_map": {"AutoModel": "modeling.Model"}}

    assert found(Use.NUMBERS, {"config.json": mapped}) == []
    assert found(Use.TOKENIZER, {"config.json": mapped}) != []
    assert "mallory/vlm" in found(Use.NUMBERS, {"config.json": {"model_name": "mallory/vlm"}})[0]
