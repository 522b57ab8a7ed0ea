"""Judges the other JSON files that LeRobot, transformers and PEFT read of a model.

    config.json          PreTrainedConfig.from_pretrained: `type` is looked up among the registered policies, the rest
                         are fields of that dataclass. Some policies load a repository that a field names with
                         trust_remote_code=True.
    train_config.json    TrainPipelineConfig.from_pretrained on a resume; the command line overrides only what it holds.
    adapter_config.json  PEFT: imports `megatron_core`, loads further adapters (X-LoRA).
    tokenizer_config.json, processor_config.json …   transformers: `auto_map` names a Python file to run.

draccus parses these files as JSON, so its `include FILE` (command line only) and YAML tags never take effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pi0q.jobs.safety.findings import Finding, Verdict
from pi0q.jobs.safety.processors import is_repository, names_for
from pi0q.jobs.safety.strict_json import Unreadable, parse_object
from pi0q.jobs.schema import lerobot_tables

#: Policies and reward models whose code comes from repositories that these fields of their configuration name, or these
#: constants of LeRobot: it can be fetched and checked beforehand.
_CODE_FIELDS = {
    "groot": ("tokenizer_assets_repo",),
    "pi0_fast": ("action_tokenizer_name", "text_tokenizer_name"),
    "reward_classifier": ("model_name",),
    "wall_x": ("action_tokenizer_path",),
}
#: groot since 0.6 (N1.7) loads its backbone's tokenizer with trust_remote_code, and any other backbone's code.
_GROOT_BACKBONE = "nvidia/Cosmos-Reason2-2B"
_GROOT_BASES = "nvidia/"
_NEWEST = [*lerobot_tables.RELEASES][-1]
#: Reward models that pi0q's own jobs train.
_REWARD_MODELS = frozenset({"reward_classifier", "sarm"})
#: Sections of a train_config.json that pi0q's own jobs leave empty, and what LeRobot would do with them.
_EMPTY_SECTIONS = {"env": "starts a simulator's code"}
#: Files in which transformers looks for `auto_map`.
AUTO_MAPS = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip


def code_repositories(kind: str, lerobot: str, settings: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Return the repositories that a policy or reward model of this type loads with trust_remote_code.

    `settings` are fields of its configuration; a field that is left out has LeRobot's default.
    """
    line, given = lerobot_tables.line(lerobot) or _NEWEST, settings or {}
    found = {str(given.get(field) or _default(line, kind, field)) for field in _CODE_FIELDS.get(kind, ())}
    if kind == "groot" and line not in ("0.4", "0.5"):
        found.add(_GROOT_BACKBONE)
    return frozenset(found - {""})


def _default(line: str, kind: str, field: str) -> str:
    """Return LeRobot's default of a field that names a repository; "" where it has none."""
    for section in ("policy", "reward_model"):
        if row := lerobot_tables.table(line).get(f"{section}.{field}", {}).get(kind):
            return str(json.loads(row.default or "null") or "")
    return ""


def judge_config(file: str, data: bytes, lerobot: str) -> Verdict:
    """`config.json` of a policy, where LeRobot takes the type from it."""
    return _judged(file, data, lambda config, code: _policy_faults(config, lerobot, code))


def judge_train_config(file: str, data: bytes, lerobot: str) -> Verdict:
    """`train_config.json`, from which a resume takes whatever the command line leaves out."""
    return _judged(file, data, lambda config, code: _training_faults(config, lerobot, code))


def judge_adapter(file: str, data: bytes) -> Verdict:
    """`adapter_config.json` of PEFT."""
    return _judged(file, data, lambda config, _: _adapter_faults(config))


def judge_auto_map(file: str, data: bytes, *, code: bool) -> Verdict:
    """`auto_map` in any file of transformers; `code`: the repository's own Python files were checked."""
    return _judged(file, data, lambda config, _: _auto_map_faults(config, code=code))


def judge_backbone(file: str, data: bytes) -> Verdict:
    """`config.json` of a model that LeRobot reads with its own classes: only whose code its groot would run counts."""
    return _judged(file, data, lambda config, _: _foreign_backbone(config))


def _judged(file: str, data: bytes, faults: Callable[[dict[str, Any], set[str]], Iterator[tuple[str, str]]]) -> Verdict:
    code_from = set[str]()
    try:
        found = list(faults(parse_object(data), code_from))
    except Unreadable as error:
        found = [("", str(error))]
    findings = tuple(Finding(file=file, where=where, what=what) for where, what in found)
    return Verdict(findings=findings, code_from=frozenset(code_from))


def _policy_faults(config: Mapping[str, Any], lerobot: str, code_from: set[str]) -> Iterator[tuple[str, str]]:
    names, kind = names_for(lerobot), config.get("type")
    if not isinstance(kind, str) or kind not in names.policies:
        yield "type", f"{kind!r} is no policy of LeRobot {lerobot}"
        return
    if kind in names.code_policies and kind not in _CODE_FIELDS:
        yield "type", f"LeRobot's {kind} runs code from repositories that it names, which pi0q can't check"
    yield from _code_faults(kind, config, lerobot, code_from)


def _code_faults(kind: str, config: Mapping[str, Any], lerobot: str, code_from: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what can't be checked of the code that this type runs; adds the repositories that it comes from."""
    base = config.get("base_model_path")
    if kind == "groot" and base is not None and not (is_repository(base) and base.startswith(_GROOT_BASES)):
        yield "base_model_path", f"LeRobot would run the code that {base!r} names; pi0q takes NVIDIA's bases alone"
    for repository in code_repositories(kind, lerobot, config):
        if is_repository(repository):
            code_from.add(repository)
        else:
            yield "", f"{kind} runs code from {repository!r}, which is no repository (owner/name) that can be checked"


def _training_faults(config: Mapping[str, Any], lerobot: str, code_from: set[str]) -> Iterator[tuple[str, str]]:
    for section, does in _EMPTY_SECTIONS.items():
        if config.get(section) is not None:
            yield section, does
    job = config.get("job") or {}
    if not isinstance(job, dict) or job.get("target") not in (None, "local"):
        yield "job.target", "submits a paid Hugging Face job, with the box's tokens"
    if config.get("save_checkpoint_to_hub"):
        yield "save_checkpoint_to_hub", "pushes to a repository of its own choice, with the box's token"
    if config.get("reward_model") is not None:
        yield from _reward_faults(config, lerobot, code_from)
        return
    policy = config.get("policy")
    if not isinstance(policy, dict):
        yield "policy", "is no JSON object"
        return
    if "path" in policy:
        yield "policy.path", "would load another policy than the checkpoint's own"
    for where, what in _policy_faults(policy, lerobot, code_from):
        yield f"policy{'.' * bool(where)}{where}", what


def _reward_faults(config: Mapping[str, Any], lerobot: str, code_from: set[str]) -> Iterator[tuple[str, str]]:
    model = config["reward_model"]
    if not isinstance(model, dict) or model.get("type") not in _REWARD_MODELS or config.get("policy") is not None:
        yield "reward_model", "is none that lerobot-train trains alone"
        return
    for where, what in _code_faults(str(model["type"]), model, lerobot, code_from):
        yield f"reward_model{'.' * bool(where)}{where}", what


def _adapter_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if config.get("megatron_config") is not None:
        yield "megatron_config", f"PEFT would import the module {config.get('megatron_core')!r}"
    if str(config.get("peft_type")).upper() == "XLORA":
        yield "peft_type", "XLORA loads further adapters, which pi0q can't check"
    tokenizer = config.get("tokenizer_kwargs") or {}
    if not isinstance(tokenizer, dict) or tokenizer.get("trust_remote_code"):
        yield "tokenizer_kwargs", "loads a tokenizer with trust_remote_code"


def _auto_map_faults(config: Mapping[str, Any], *, code: bool) -> Iterator[tuple[str, str]]:
    yield from _foreign_backbone(config)
    named = config.get("auto_map")
    if not named:
        return
    targets = [str(target) for target in _leaves(named)]
    foreign = [target for target in targets if "--" in target]
    if not code:
        yield "auto_map", f"names Python code to run ({', '.join(targets)})"
    elif foreign:
        yield "auto_map", f"names code of another repository ({', '.join(foreign)})"


def _foreign_backbone(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    backbone = config.get("model_name")
    if "type" not in config and isinstance(backbone, str) and "/" in backbone and backbone != _GROOT_BACKBONE:
        yield "model_name", f"LeRobot's groot would run the code of {backbone!r}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value
