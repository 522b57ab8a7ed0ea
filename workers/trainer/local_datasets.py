"""Datasets that already lie on the box: only below directories that its owner allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs import dataset
from pi0q.jobs.dataset import DatasetInfo
from pi0q.jobs.outcome import Reason
from pi0q.queue.refusals import BadInput
from pi0q.queue.settings import Settings

DATASET = "dataset"


def local_root(train: Mapping[str, Any], settings: Settings) -> Path | None:
    """Where `train.dataset.root` is on this box; a relative one is taken below PI0Q_HOME. None if not given."""
    root = train.get("dataset.root")
    return (settings.home / Path(str(root)).expanduser()).resolve() if root else None


def problem(train: Mapping[str, Any], settings: Settings) -> BadInput | None:
    """Why this box can't use the job's local dataset; None if it can, or if there is none."""
    root = local_root(train, settings)
    if root is None:
        return None
    allowed = [place.resolve() for place in settings.dataset_roots]
    if not any(root == place or place in root.parents for place in allowed):
        places = ":".join(map(str, allowed))
        return _missing(f"{root} is outside of what this box allows ({places}; its owner may set PI0Q_DATASET_ROOTS)")
    if not (root / "meta" / "info.json").is_file():
        return _missing(f"{root} holds no LeRobot dataset on this box (no meta/info.json)")
    read = facts(train, settings)
    why = dataset.fault(read, train) if read else ""
    if not why:
        return None
    in_file = read is not None and not dataset.is_old(read)
    return BadInput(what=DATASET, why=why, reason=Reason.SPEC_REFUSED.value, in_file=in_file)


def _missing(why: str) -> BadInput:
    return BadInput(what=DATASET, why=why, reason=Reason.DATASET_MISSING.value)


def facts(train: Mapping[str, Any], settings: Settings) -> DatasetInfo | None:
    """What the job's local dataset says of itself; None if there is none, or none that can be read."""
    root = local_root(train, settings)
    try:
        return DatasetInfo.read(json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))) if root else None
    except (OSError, ValueError):
        return None
