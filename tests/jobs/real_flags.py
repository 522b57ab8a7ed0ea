"""Holds pi0q's flag table against the LeRobot of this interpreter; prints what differs, as a JSON list.

Run by test_flags in a process of its own: importing LeRobot takes half a minute and warns a lot.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pi0q.jobs import flags
from pi0q.jobs.command import _text
from pi0q.jobs.document import node_of
from pi0q.jobs.flag import POLICIES
from pi0q.jobs.kinds import Bool, Choice, Float, Int, Kind, Many, Names, Repo

#: Not fields of a dataclass but words of LeRobot's parser.
WORDS = {"policy.type", "policy.path", "optimizer.type", "scheduler.type"}


def fields(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every flag that a config class makes, with its default."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        inner = [t for t in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(t)]
        if inner and not hasattr(inner[0], "get_known_choices") and "dict" not in str(hints[field.name]):
            yield from fields(inner[0], f"{prefix}{field.name}.")
        elif field.default is not dataclasses.MISSING:
            yield prefix + field.name, field.default
        elif field.default_factory is not dataclasses.MISSING:
            yield prefix + field.name, field.default_factory()
        else:
            yield prefix + field.name, None


def plain(value: Any) -> Any:
    """A value as JSON would have it, to compare."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def sample(kind: Kind) -> Any:
    """Some value that the kind takes, where LeRobot has no default to take."""
    match kind:
        case Choice():
            return kind.options[0]
        case Repo():
            return "some/repo"
        case Bool():
            return True
        case Int() | Float():
            return max(kind.low, 1)
        case Many():
            return [sample(kind.of)] * (kind.size or 1)
        case Names():
            return {"ACTION": sample(kind.of)}
        case _:
            return "some/text"


def classes(line: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Defaults by flag: of the train config with its optimizer and scheduler, and of each policy."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.optim import OptimizerConfig
    from lerobot.optim.schedulers import LRSchedulerConfig

    for policy in POLICIES:
        importlib.import_module(f"lerobot.policies.{policy}.configuration_{policy}")
    common = dict(fields(TrainPipelineConfig))
    for section, base, names in (
        ("optimizer", OptimizerConfig, flags.FLAGS["optimizer.type"].kind),
        ("scheduler", LRSchedulerConfig, flags.FLAGS["scheduler.type"].kind),
    ):
        assert isinstance(names, Choice)
        for name in names.options:
            common |= dict(fields(base.get_choice_class(name), f"{section}."))
    return common, {policy: dict(fields(PreTrainedConfig.get_choice_class(policy), "policy.")) for policy in POLICIES}


def compare(line: str) -> Iterator[str]:
    common, policies = classes(line)
    for policy, own in policies.items():
        known = common | own
        for name, flag in flags.FLAGS.items():
            if name in WORDS:
                continue
            if policy in flag.known[line] and name not in known:
                yield f"{policy}: the table has {name}, LeRobot {line} doesn't"
            elif policy not in flag.known[line] and name in known:
                yield f"{policy}: LeRobot {line} has {name}, the table says it doesn't"
            elif policy in flag.known[line] and known[name] not in (None, "?"):
                told: list[str] = []
                flag.kind.read(node_of(plain(known[name])), lambda _, text, told=told: told.append(text))  # type: ignore[misc]
                yield from (f"{policy}: the default of {name} would be refused: {text}" for text in told)
        yield from parse(policy, line, known)
    for name in ("output_dir", "resume", "save_checkpoint", "wandb.run_id", "save_checkpoint_to_hub"):
        if flags.denial(name) is None:
            yield f"{name} is not denied"


def parse(policy: str, line: str, known: dict[str, Any]) -> Iterator[str]:
    """Gives LeRobot's own parser every flag of a policy at once, and looks at what it made of them."""
    import draccus
    from lerobot.configs.train import TrainPipelineConfig

    train: dict[str, Any] = {"policy.type": policy}
    for name, flag in flags.FLAGS.items():
        if (
            name not in WORDS
            and policy in flag.known[line]
            and name.partition(".")[0] not in ("optimizer", "scheduler")
        ):
            default = plain(known[name])
            empty = default in (None, {}) and not flag.kind.nullable
            train[name] = sample(flag.kind) if empty else default
    train["policy.device"] = "cpu"
    train["dataset.eval_split"] = 0.5
    if line == "0.4":
        del train["dataset.eval_split"]
    config = draccus.parse(TrainPipelineConfig, args=[f"--{name}={_text(name, of)}" for name, of in train.items()])
    for name, given in train.items():
        if name in WORDS:
            continue
        got: Any = config
        for part in name.split("."):
            got = getattr(got, part)
        got = plain(got)
        same = math.isclose(got, given) if isinstance(given, float) else got == given
        if not same:
            yield f"{policy}: {name}={given!r} arrived as {got!r}"


if __name__ == "__main__":
    from importlib.metadata import version

    found = flags.line(version("lerobot"))
    problems = list(compare(found)) if found else [f"the table says nothing of LeRobot {version('lerobot')}"]
    sys.stdout.write("\n" + json.dumps(problems))
