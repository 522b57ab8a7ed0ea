"""`dataset.image_transforms.tfs`: LeRobot's standard transforms, changed in part.

LeRobot takes the whole mapping or none of it: whoever wants `affine` off has to write out the other five. A job file
may name the part alone (`tfs: {affine: {weight: 0}}`); pi0q fills in the rest from the defaults of the box's LeRobot.
"""

from __future__ import annotations

import json
from typing import cast

from pi0q.jobs.schema import lerobot_tables
from pi0q.jobs.schema.lerobot_tables import ALL, RELEASES
from pi0q.jobs.schema.value_types import Value

TFS = "dataset.image_transforms.tfs"


def completed(given: dict[str, Value], lerobot: str) -> dict[str, Value]:
    """Return the whole mapping: as given where each transform has its type, else LeRobot's own with these changes."""
    if not partial(given):
        return given
    standard = _standard(lerobot_tables.line(lerobot) or [*RELEASES][-1])
    changed = dict(standard)
    for name, settings in given.items():
        changed[name] = {**_settings(standard.get(name)), **_settings(settings)}
    return changed


def partial(given: dict[str, Value]) -> list[str]:
    """Return the transforms that are written without their type."""
    return [name for name, settings in given.items() if "type" not in _settings(settings)]


def fault(given: dict[str, Value]) -> str:
    """Return what is wrong with a mapping that names a part; "" if nothing is."""
    known = _standard([*RELEASES][-1])
    strange = [name for name in partial(given) if name not in known]
    if not strange:
        return ""
    return f"has {strange[0]} without a type: write one, or change one of LeRobot's own ({', '.join(known)})"


def _settings(value: Value) -> dict[str, Value]:
    return value if isinstance(value, dict) else {}


def _standard(of: str) -> dict[str, Value]:
    return cast("dict[str, Value]", json.loads(lerobot_tables.table(of)[TFS][ALL].default))
