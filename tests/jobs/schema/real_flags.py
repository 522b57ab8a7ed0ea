"""Holds pi0q's flag table against the LeRobot of this interpreter; prints what differs, as a JSON list.

Run by test_flags in a process of its own: importing LeRobot takes half a minute and warns a lot.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pi0q.jobs.command import _text
from pi0q.jobs.schema import flags, lerobot_tables
from pi0q.jobs.schema.compound_types import Anything, Either, Record
from pi0q.jobs.schema.lerobot_tables import ALL, RELEASES
from pi0q.jobs.schema.value_types import Bool, Choice, DatasetName, Float, HubFile, Int, ListOf, MapOf, Repo, ValueType
from pi0q.ops.dev import lerobot_flags_main

#: Not fields of a dataclass but words of LeRobot's parser.
WORDS = {"policy.type", "policy.path", "reward_model.type", "optimizer.type", "scheduler.type"}
#: What a section's flags are given for: LeRobot builds the section only where the flag is there.
OPTIMIZERS = ("optimizer", "scheduler")
HUB_FILE = "hf://datasets/some/repo/progress.parquet"


#: Values that a parser on the way may take for something else, by flag.
NASTY: dict[str, tuple[Any, ...]] = {
    "wandb.notes": (
        "yes",
        "null",
        "1e5",
        "010",
        "[x]",
        "{a: b}",
        "a: b",
        "# no",
        "'",
        'say "hi"',
        "back\\slash",
        "ж 📦",
        "~",
    ),
    "peft.target_modules": (
        r"(.*\.(q|v)_proj|model\.state_proj)",
        "all-linear",
        r".*[{'\"]?",
        ["no", "q_proj"],
        [],
        None,
    ),
    "rename_map": ({"observation.images.a": "b: c"}, {"yes": "no"}, {}),
    "policy.input_features": ({"observation.state": {"type": "STATE", "shape": [14]}}, {}, None),
    "policy.optimizer_lr": (1e-05, 2.5e-7, 3.0),
    "dataset.episodes": ([], [0, 7], None),
    "dataset.image_transforms.tfs": (
        {"blur": {"weight": 0.5, "type": "GaussianBlur", "kwargs": {"kernel_size": [3, 5], "on": "off"}}},
    ),
    "sample_weighting.extra_params": ({"a": [1, 0.5, None, True, "on"], "b": {"c": "1e5"}},),
}


def sample(kind: ValueType) -> Any:
    """Some value that the kind takes, where LeRobot has no default to take."""
    match kind:
        case Either():
            return sample(kind.kinds[0])
        case Choice():
            return kind.options[0]
        case DatasetName() | Repo():
            return "some/repo"
        case HubFile():
            return HUB_FILE
        case Bool():
            return True
        case Int() | Float():
            return max(kind.low, 1)
        case ListOf():
            return [sample(kind.of)] * (kind.size or 1)
        case MapOf():
            return {"ACTION": sample(kind.of)}
        case Record():
            return {name: sample(of) for name, of in kind.fields.items()}
        case Anything():
            return {"a": [1, 0.5, True, None, "b c"]}
        case _:
            return "some text"


def table(line: str) -> Iterator[str]:
    """Yield how the file differs from what the tool writes."""
    release = RELEASES[line]
    if version("lerobot") != release:
        return
    file = Path(lerobot_tables.__file__).parent / "lerobot" / f"{release}.tsv"
    written, there = lerobot_flags_main.table().splitlines(), file.read_text(encoding="utf-8").splitlines()
    yield from (f"LeRobot has it, {file.name} doesn't: {row}" for row in written if row not in there)
    yield from (f"{file.name} has it, LeRobot doesn't: {row}" for row in there if row not in written)


def parse(section: str, name: str, line: str) -> Iterator[str]:
    """Give LeRobot's own parser every flag of a policy or reward model at once, and look at what it made of them."""
    import draccus
    from lerobot.configs.train import TrainPipelineConfig

    train: dict[str, Any] = {f"{section}.type": name}
    for key, flag in flags.FLAGS.items():
        top, owners = key.partition(".")[0], lerobot_tables.table(line).get(key, {})
        mine = owners.get(name) if top == section else owners.get(ALL)
        if key not in WORDS and mine and top not in OPTIMIZERS:
            train[key] = given(flag.kind, mine.default)
    train |= {f"{section}.device": "cpu"} | ({"dataset.eval_split": 0.5} if "dataset.eval_split" in train else {})
    # What LeRobot makes of the values afterwards (a device, features, a base's own configuration) is not the parser's.
    base = importlib.import_module("lerobot.configs" + (".policies" if section == "policy" else ".rewards"))
    chosen = getattr(base, "PreTrainedConfig" if section == "policy" else "RewardModelConfig").get_choice_class(name)
    chosen.__post_init__ = lambda self: None
    config = draccus.parse(TrainPipelineConfig, args=[f"--{key}={_text(key, of)}" for key, of in train.items()])
    for key, of in train.items():
        if key in WORDS:
            continue
        got: Any = config
        for part in key.split("."):
            got = getattr(got, part)
        if not same(lerobot_flags_main.plain(got), of):
            yield f"{name}: {key}={of!r} arrived as {got!r}"


def nasty(line: str) -> Iterator[str]:
    """Give LeRobot's own parser values that look like others."""
    import draccus
    from lerobot.configs.train import TrainPipelineConfig

    least: dict[str, Any] = {"dataset.repo_id": "a/b", "policy.type": "act", "policy.push_to_hub": False}
    for key, values in NASTY.items():
        for value in values if lerobot_tables.takes(RELEASES[line], key) else ():
            train = least | {key: value}
            got: Any = draccus.parse(
                TrainPipelineConfig, args=[f"--{name}={_text(name, of)}" for name, of in train.items()]
            )
            for part in key.split("."):
                got = getattr(got, part)
            if not same(lerobot_flags_main.plain(got), value):
                yield f"{key}={value!r} arrived as {got!r}"


def given(kind: ValueType, default: str) -> Any:
    """Return LeRobot's default, or some value where it has none to speak of."""
    value = json.loads(default) if default not in ("", "?") else None
    empty = value in (None, {}, "") and not (kind.nullable and value is None)
    return sample(kind) if empty else value


def same(got: Any, of: Any) -> bool:
    if isinstance(of, float) or isinstance(got, float):
        return math.isclose(got, of)
    if isinstance(of, dict) and isinstance(got, dict):
        return got.keys() == of.keys() and all(same(got[key], of[key]) for key in of)
    if isinstance(of, list) and isinstance(got, list):
        return len(got) == len(of) and all(map(same, got, of))
    return bool(got == of)


def everything(line: str) -> Iterator[str]:
    yield from table(line)
    yield from nasty(line)
    for section in ("policy", "reward_model"):
        rows = lerobot_tables.table(line).get(f"{section}.type", {})
        for name in rows[ALL].type.removeprefix("enum(").rstrip(")").split("|") if rows else ():
            if name in flags.trained(section):
                try:
                    yield from parse(section, name, line)
                except (Exception, SystemExit) as error:
                    yield f"{name}: {error!r}"


if __name__ == "__main__":
    line = lerobot_tables.line(version("lerobot"))
    problems = list(everything(line)) if line else [f"no table speaks for LeRobot {version('lerobot')}"]
    sys.stdout.write("\n" + json.dumps(problems))
