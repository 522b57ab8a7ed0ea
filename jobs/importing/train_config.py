"""The `train_config.json` that LeRobot saves with each checkpoint, as the settings of a job file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.conversion import Settings, adjust, why_left_out
from pi0q.jobs.importing.report import Report
from pi0q.jobs.schema import flags

#: Largest configuration, in characters; real ones have 8,000.
_LARGEST = 128 * 1024
#: Settings of LeRobot before 0.5 that say nothing at these values.
_NOTHING = {"use_rabc": False, "rabc_kappa": 0.01, "rabc_epsilon": 1e-6, "rabc_head_mode": "sparse"}
#: Flags that pi0q has a better default for than LeRobot, at LeRobot's value.
_DEFAULTS = {"wandb.disable_artifact": False, "dataset.repo_type": "dataset"}


def load(text: str, name: str) -> dict[str, Any] | None:
    """The JSON object in a text; None where it is none. Raises UsageError where it begins like one and is broken."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[1:].lstrip().startswith('"'):
            raise UsageError(f"{name} is JSON that can't be read ({str(error)[:80]}); nothing was written.") from None
        return None
    return content if isinstance(content, dict) else None


def settings_of(content: Mapping[str, Any], text: str, report: Report) -> Settings:
    """The settings of a training configuration that belong into a job file. Raises UsageError if it is none."""
    if not isinstance(content.get("dataset"), dict) or len(text) > _LARGEST:
        beside = " (the policy's config.json? The training's settings are in train_config.json beside it)"
        raise UsageError(
            f"{report.name} is JSON, but no train_config.json of a checkpoint"
            f"{beside if 'type' in content else ''}; nothing was written."
        )
    lines = _lines(text)
    settings = Settings()
    preset = content.get("use_policy_training_preset", True)
    for name, value in _flat(content):
        line = lines.get(name, 1)
        if _says_nothing(name, value, content):
            continue
        section = name.partition(".")[0]
        if why := why_left_out(name):
            told = section if section in ("env", "eval", "job") else name
            report.note(lines.get(told, line), f"left out {told}: {why}")
        elif preset and section in ("optimizer", "scheduler"):
            report.note(lines.get(section, line), f"left out {section}: the policy's own settings make it")
        elif name in flags.FLAGS:
            settings.train[name], settings.lines[name] = value, line
        elif name in ("policy.input_features", "policy.output_features"):
            report.note(line, f"left out {name}: lerobot-train reads it off the dataset")
        else:
            report.fault(line, f"{name} {flags.unknown(name)}")
    settings.line = 1
    adjust(settings, report)
    return settings


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The configuration's values by dotted name; what is one flag stays whole."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        whole = name in flags.FLAGS or name in ("policy.input_features", "policy.output_features")
        if isinstance(value, Mapping) and not whole:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _says_nothing(name: str, value: Any, content: Mapping[str, Any]) -> bool:
    """Whether a value is what LeRobot takes without it, or has no effect."""
    if value is None:
        return name not in flags.FLAGS or not flags.FLAGS[name].kind.nullable or _is_null_anyway(name, content)
    if name.startswith("dataset.image_transforms.") and not content["dataset"]["image_transforms"].get("enable"):
        return True
    at_default = _DEFAULTS.get(name, _NOTHING.get(name, ...))
    return value in ({}, []) or (value is not ... and value == at_default)


def _is_null_anyway(name: str, content: Mapping[str, Any]) -> bool:
    """Whether LeRobot takes null too where the flag is left out."""
    known, section = flags.explain(name), content.get(name.partition(".")[0])
    of = section.get("type") if isinstance(section, Mapping) else None
    return known is not None and known.defaults.get(str(of), known.defaults.get("-")) in (None, "null", "")


def _lines(text: str) -> dict[str, int]:
    """The line of each dotted name; empty where YAML can't follow."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    found = dict[str, int]()

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[f"{prefix}{key.value}"] = key.start_mark.line + 1
                walk(value, f"{prefix}{key.value}.")

    walk(root, "")
    return found


def of_notebook(content: Mapping[str, Any]) -> str | None:
    """The text of a Jupyter notebook's code cells, one below the other; None if it is no notebook."""
    cells = content.get("cells")
    if not isinstance(cells, list):
        return None
    sources = [cell.get("source", "") for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
    return "\n".join("".join(source) if isinstance(source, list) else str(source) for source in sources)
