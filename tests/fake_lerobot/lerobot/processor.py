"""FAKE: makes the steps of the processor files as the real one does, foreign classes included."""

import importlib
import json
from pathlib import Path
from typing import Any


def make_steps(pretrained: Path) -> list[Any]:
    """`registry_name` names a step of LeRobot's, of which the fake has none; `class` anything that can be imported."""
    steps = []
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        if not (pretrained / name).is_file():
            continue
        for step in json.loads((pretrained / name).read_text()).get("steps", []):
            if "registry_name" not in step:
                module, _, cls = step["class"].rpartition(".")
                steps.append(getattr(importlib.import_module(module), cls)(**step.get("config", {})))
    return steps
