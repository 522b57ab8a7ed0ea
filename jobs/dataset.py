"""What a dataset says of itself in `meta/info.json`, held against the job and the LeRobot that will read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.schema.value_types import Value

#: The format that LeRobot 0.4 to 0.6 write and read (CODEBASE_VERSION); a later minor one is read with a warning.
FORMAT = (3, 0)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of one sample."""

    cameras: int
    #: Of the largest camera, in pixels.
    height: int = 224
    width: int = 224

    @property
    def patches(self) -> float:
        """Return how many times as many pixels as 224 x 224 one image has."""
        return self.height * self.width / 224**2

    def __str__(self) -> str:
        return f"{self.cameras} camera{'' if self.cameras == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What of a dataset matters before a training."""

    #: codebase_version, as "v3.0"; "" where it says none.
    format: str
    #: Episodes in all; None where it says none.
    episodes: int | None
    #: Whether images are stored as videos, so that a decoder is needed.
    videos: bool
    #: Bytes of one sample's images as a data process hands them over: four a value.
    frame_bytes: int
    #: Cameras, and the size of the largest image in pixels; 0 where it says none.
    cameras: int = 0
    height: int = 0
    width: int = 0

    @classmethod
    def read(cls, info: Any) -> DatasetInfo:
        """Out of what `meta/info.json` holds, whatever that is: it comes from outside."""
        info = info if isinstance(info, dict) else {}
        features = info.get("features") if isinstance(info.get("features"), dict) else {}
        pictures = [one for one in features.values() if isinstance(one, dict) and str(one.get("dtype")) in _PICTURES]
        episodes = info.get("total_episodes")
        sizes = [size for one in pictures if (size := _size(one))]
        height, width = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
        return cls(
            format=str(info.get("codebase_version") or "")[:20],
            episodes=episodes if isinstance(episodes, int) else None,
            videos=any(one.get("dtype") == "video" for one in pictures),
            frame_bytes=sum(_bytes(one.get("shape")) for one in pictures),
            cameras=len(sizes),
            height=height,
            width=width,
        )

    @classmethod
    def from_record(cls, facts: Any) -> DatasetInfo | None:
        """Read what a box wrote into a record; None for anything that no box writes: the record is not trusted."""
        if not isinstance(facts, Mapping) or set(facts) != set(cls.__dataclass_fields__):
            return None
        numbers = (facts["frame_bytes"], facts["cameras"], facts["height"], facts["width"])
        episodes = facts["episodes"]
        sound = (
            isinstance(facts["format"], str)
            and (episodes is None or type(episodes) is int)
            and isinstance(facts["videos"], bool)
            and all(type(number) is int and 0 <= number < 2**53 for number in numbers)
        )
        return cls(**facts) if sound else None

    @classmethod
    def of_any(cls, preflight: Mapping[str, Mapping[str, Any]]) -> DatasetInfo | None:
        """Return the facts of a job's dataset that any box found in a preflight; None where none did."""
        for found in preflight.values():
            if facts := cls.from_record(found.get("dataset")):
                return facts
        return None

    @property
    def images(self) -> Images | None:
        """Return the images of one sample; None where nothing is known of them."""
        limits = ((self.cameras, _MOST_CAMERAS), (self.height, _LONGEST), (self.width, _LONGEST))
        if not all(type(number) is int and 0 < number <= most for number, most in limits):
            return None
        return Images(cameras=self.cameras, height=self.height, width=self.width)


_PICTURES = frozenset({"image", "video"})
#: What comes from a dataset is not trusted: beyond these its numbers are not believed.
_MOST_CAMERAS, _LONGEST = 32, 16_384


def _size(picture: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of a feature, which may have its channels first or last."""
    shape = picture.get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        return None
    channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    height, width = shape[1:] if channels_first else shape[:2]
    return height, width


def _bytes(shape: Any) -> int:
    if not isinstance(shape, list) or not shape or not all(isinstance(side, int) and side > 0 for side in shape):
        return 0
    size = 4
    for side in shape:
        size *= side
    return size


def fault(facts: DatasetInfo, train: Mapping[str, Value]) -> str:
    """Why no LeRobot that pi0q knows trains this job on it, and the cure; "" if one may."""
    name = train.get("dataset.repo_id")
    version = _version(facts.format)
    if version and is_old(facts):
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
                f"(0 to {facts.episodes - 1}). Fix the file and submit again."
            )
    return ""


def is_old(facts: DatasetInfo) -> bool:
    """Return whether it has a format that must be converted before any LeRobot that pi0q knows reads it."""
    version = _version(facts.format)
    return version is not None and version < FORMAT


def newer(facts: DatasetInfo) -> str:
    """Why the LeRobot of a box is too old for it; "" if it is not."""
    version = _version(facts.format)
    if version and version[0] > FORMAT[0]:
        return f"the dataset has the format {facts.format}, and the LeRobot here reads v3: a newer LeRobot may read it"
    return ""


def _version(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"v?(\d+)\.(\d+)(\.\d+)?", text)
    return (int(found[1]), int(found[2])) if found else None
