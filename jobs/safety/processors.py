"""Judges `policy_preprocessor.json` and `policy_postprocessor.json`: which classes LeRobot would make of them.

LeRobot (processor/pipeline.py, the same in 0.4.4, 0.5.1 and 0.6.1) makes each step like this:

    "registry_name" in step   the class that is registered under that name; `class` is not looked at
    else                      importlib.import_module + getattr of step["class"]: any function of any module
    then                      class(**step["config"]), and load_state_dict(safetensors.load_file(step["state_file"]))

So a step may name only LeRobot's own. A few of those load code from the repository that their config names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pi0q.jobs.safety.findings import Finding, Verdict
from pi0q.jobs.safety.lerobot_names import NAMES, Names
from pi0q.jobs.safety.strict_json import Unreadable, parse_object

#: The files that LeRobot reads for a policy, in every version.
FILES = ("policy_preprocessor.json", "policy_postprocessor.json")
#: The one step of LeRobot whose code can be checked: what it loads is named in its config, by these keys.
ACTION_TOKENIZER = frozenset({
    "action_tokenizer_processor", "lerobot.processor.tokenizer_processor.ActionTokenizerProcessorStep",
})  # fmt: skip
_CODE_KEYS = ("action_tokenizer_name", "paligemma_tokenizer_name")
#: Steps that load nothing where this key of their config is null or left out.
_LOADS_BY = {
    "reward_classifier_processor": "pretrained_path",
    "lerobot.processor.hil_processor.RewardClassifierProcessorStep": "pretrained_path",
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def names_for(lerobot: str) -> Names:
    """The table of the version's line; of the newest line before it where it has none of its own, else the oldest."""
    wanted = _line(lerobot)
    known = sorted(NAMES, key=_line)
    return NAMES[max((line for line in known if _line(line) <= wanted), key=_line, default=known[0])]


def judge_processor(file: str, data: bytes, lerobot: str) -> Verdict:
    """What LeRobot of this version would run out of one processor file."""
    try:
        steps = parse_object(data).get("steps")
    except Unreadable as error:
        return Verdict(findings=(Finding(file=file, what=str(error)),))
    names, verdict = names_for(lerobot), Verdict()
    # Without a list of steps LeRobot refuses the file and makes nothing of it.
    for number, step in enumerate(steps if isinstance(steps, list) else [], 1):
        faults, code_from = list[str](), set[str]()
        faults = list(_faults(step, names, lerobot, code_from)) if isinstance(step, dict) else ["is no JSON object"]
        found = tuple(Finding(file=file, where=f"step {number}", what=what) for what in faults)
        verdict |= Verdict(findings=found, code_from=frozenset(code_from))
    return verdict


def _faults(step: Mapping[str, Any], names: Names, lerobot: str, code_from: set[str]) -> Iterator[str]:
    """What is wrong with one step; adds the repositories that it loads code from."""
    if "registry_name" in step:
        name, known, told = step["registry_name"], names.steps, "registry_name"
    else:
        name, known, told = step.get("class"), names.classes, "class"
    config = step.get("config", {})
    if not isinstance(name, str) or name not in known:
        yield f"{told} {name!r} is no processor step of LeRobot {lerobot}"
    elif not isinstance(config, dict):
        yield "config is no JSON object"
    elif name in ACTION_TOKENIZER:
        for repository in _code_of(config):
            if is_repository(repository):
                code_from.add(repository)
            else:
                yield f"{name} runs code from {repository!r}, which is no repository (owner/name) that can be checked"
    elif name in names.code_steps and _loads(name, config):
        yield f"{name} runs code from a repository that it names, which pi0q can't check"
    if "state_file" in step and not _is_state(step["state_file"]):
        yield f"state_file {step['state_file']!r} is no *.safetensors file of its directory"


def is_repository(name: Any) -> bool:
    """Whether transformers looks for it on the Hub; anything else may be a directory."""
    return isinstance(name, str) and _REPOSITORY.fullmatch(name) is not None and ".." not in name


def _code_of(config: Mapping[str, Any]) -> list[Any]:
    """What the action tokenizer's step loads with trust_remote_code, which is true if left out."""
    if config.get("trust_remote_code", True) is False:
        return []
    return [name for key in _CODE_KEYS if (name := config.get(key)) is not None]


def _loads(name: str, config: Mapping[str, Any]) -> bool:
    key = _LOADS_BY.get(name)
    return key is None or config.get(key) is not None


def _is_state(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and PurePosixPath(name).parts == (name,)


def _line(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in parts)
