"""What a job trains: a policy (`policy.*`) or, since LeRobot 0.6, a reward model (`reward_model.*`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Commands that only read must not import the parser of job files.
    from pi0q.jobs.schema.value_types import Value

REWARD_MODEL = "reward_model"


def section(train: Mapping[str, Value]) -> str:
    """Return the section of the flags that describe it."""
    return REWARD_MODEL if train.get(f"{REWARD_MODEL}.type") else "policy"


def setting(train: Mapping[str, Value], name: str) -> Value:
    """Return a setting of it, like "device"; None where the file leaves it out."""
    return train.get(f"{section(train)}.{name}")


def kind(train: Mapping[str, Value]) -> str:
    """Return its type, like "pi0" or "sarm"; "" for a policy given by path."""
    return str(setting(train, "type") or "")


def on_cpu(train: Mapping[str, Value]) -> bool:
    """Whether the file asks for the CPU."""
    return setting(train, "device") == "cpu"
