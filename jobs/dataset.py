"""What a dataset says of itself in `meta/info.json`, held against the job and the LeRobot that will read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.kinds import Value

#: The format that LeRobot 0.4 to 0.6 write and read (CODEBASE_VERSION); a later minor one is read with a warning.
FORMAT = (3, 0)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What of a dataset matters before a training."""

    #: codebase_version, as "v3.0"; "" where it says none.
    format: str
    #: Episodes in all; None where it says none.
    episodes: int | None
    #: Whether images are stored as videos, so that a decoder is needed.
    videos: bool
    #: Bytes of one sample's images as a data process hands them over: four a value.
    frame_bytes: int

    @classmethod
    def read(cls, info: Any) -> Facts:
        """Out of what `meta/info.json` holds, whatever that is: it comes from outside."""
        info = info if isinstance(info, dict) else {}
        features = info.get("features") if isinstance(info.get("features"), dict) else {}
        pictures = [one for one in features.values() if isinstance(one, dict) and str(one.get("dtype")) in _PICTURES]
        episodes = info.get("total_episodes")
        return cls(
            format=str(info.get("codebase_version") or "")[:20],
            episodes=episodes if isinstance(episodes, int) else None,
            videos=any(one.get("dtype") == "video" for one in pictures),
            frame_bytes=sum(_bytes(one.get("shape")) for one in pictures),
        )


_PICTURES = frozenset({"image", "video"})


def _bytes(shape: Any) -> int:
    if not isinstance(shape, list) or not shape or not all(isinstance(side, int) and side > 0 for side in shape):
        return 0
    size = 4
    for side in shape:
        size *= side
    return size


def fault(facts: Facts, train: Mapping[str, Value]) -> str:
    """Why no LeRobot that pi0q knows trains this job on it, and the cure; "" if one may."""
    name = train.get("dataset.repo_id")
    version = _version(facts.format)
    if version and version < FORMAT:
        first = "" if version >= (2, 1) else "to v2.1 with an older LeRobot first, then "
        return (
            f"dataset {name} has the format {facts.format}, and LeRobot reads v3.0 on. Convert it: {first}"
            f"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id={name}, and submit again."
        )
    wanted = train.get("dataset.episodes")
    if isinstance(wanted, list) and facts.episodes is not None:
        beyond = [number for number in wanted if isinstance(number, int) and number >= facts.episodes]
        if beyond:
            return (
                f"train.dataset.episodes asks for episode {beyond[0]}, and dataset {name} has {facts.episodes} "
                f"(0 to {facts.episodes - 1}). Mend the file and submit again."
            )
    return ""


def newer(facts: Facts) -> str:
    """Why the LeRobot of a box is too old for it; "" if it is not."""
    version = _version(facts.format)
    if version and version[0] > FORMAT[0]:
        return f"the dataset has the format {facts.format}, and the LeRobot here reads v3: a newer LeRobot may read it"
    return ""


def _version(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"v?(\d+)\.(\d+)(\.\d+)?", text)
    return (int(found[1]), int(found[2])) if found else None
