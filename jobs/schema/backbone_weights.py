"""Weights of torchvision's vision networks that act, diffusion and vqbet begin with, and the files that hold them.

LeRobot hands `policy.pretrained_backbone_weights` to torchvision, which fetches a file from download.pytorch.org at
every start of a training that is not in TORCH_HOME, on a resume too. The names of the files carry the first eight hex
digits of their SHA-256 (torchvision/models/resnet.py, the same from 0.21 to 0.29).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pi0q.jobs.schema import lerobot_tables
from pi0q.jobs.schema.value_types import Value

FLAG = "policy.pretrained_backbone_weights"
NETWORK = "policy.vision_backbone"
#: Where torchvision fetches them from.
SOURCE = "https://download.pytorch.org/models"
#: By network: the class of its weights in torchvision, and its files by their name there.
_FILES: dict[str, tuple[str, dict[str, str]]] = {
    "resnet18": ("ResNet18_Weights", {"IMAGENET1K_V1": "resnet18-f37072fd.pth"}),
    "resnet34": ("ResNet34_Weights", {"IMAGENET1K_V1": "resnet34-b627a593.pth"}),
    "resnet50": (
        "ResNet50_Weights",
        {"IMAGENET1K_V1": "resnet50-0676ba61.pth", "IMAGENET1K_V2": "resnet50-11ad3fa6.pth"},
    ),
}
_NEWEST = [*lerobot_tables.RELEASES][-1]


def file_of(network: object, weights: object) -> str | None:
    """Return the file of these weights; None where torchvision has none of that name for the network."""
    if not isinstance(network, str) or not isinstance(weights, str) or network not in _FILES:
        return None
    class_name, files = _FILES[network]
    name = weights.removeprefix(f"{class_name}.")
    return [*files.values()][-1] if name == "DEFAULT" else files.get(name)


def wanted(train: Mapping[str, Value], lerobot: str) -> str | None:
    """Return the file that a policy of these flags begins with; None for none. A policy given by path: `of_config`."""
    kind = train.get("policy.type")
    return file_of(*_settings(train, str(kind), lerobot)) if kind else None


def of_config(config: Mapping[str, Any]) -> str | None:
    """Return the file that the `config.json` of a base or checkpoint asks for; None for none."""
    rows = lerobot_tables.table(_NEWEST).get(FLAG, {})
    if config.get("type") not in rows:
        return None
    return file_of(config.get("vision_backbone"), config.get("pretrained_backbone_weights"))


def fault(train: Mapping[str, Value]) -> tuple[str, str] | None:
    """Return the flag that is wrong and why: torchvision has no such weights for the network; None if it is right."""
    kind = train.get("policy.type")
    network, weights = _settings(train, str(kind), "") if kind else (None, None)
    if not isinstance(network, str) or weights is None or network not in _FILES or file_of(network, weights):
        return None
    class_name, files = _FILES[network]
    right = " or ".join(f"{class_name}.{name}" for name in files)
    if FLAG in train:
        return FLAG, f"is {weights}, which {network} has not: write {right}, or null for new weights"
    return NETWORK, f"is {network}, and LeRobot's weights are of another network: set {FLAG} to {right}, or to null"


def _settings(train: Mapping[str, Value], kind: str, lerobot: str) -> tuple[Value, Value]:
    """Return the network and its weights: the file's, else LeRobot's own."""
    table = lerobot_tables.table(lerobot_tables.line(lerobot) or _NEWEST)
    found = list[Value]()
    for flag in (NETWORK, FLAG):
        row = table.get(flag, {}).get(kind)
        found.append(None if row is None else train[flag] if flag in train else json.loads(row.default or "null"))
    return found[0], found[1]
