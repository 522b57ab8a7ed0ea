"""What a dataset's files hold, as far as a training depends on it: values that a helper process read out of them.

They come from outside (workers/trainer/read_dataset_main.py reads files that anyone may have written), so `parse` takes
nothing on trust: what has not the right shape is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

#: Most features, files and other entries that are believed.
MOST = 20_000
#: Characters of a name that are kept.
LONGEST = 300


class FileFault(str, Enum):
    """What can be wrong with one file before anyone looks at what it says."""

    MISSING = "missing"
    #: The text that Git LFS leaves in place of a file that was not fetched.
    POINTER = "pointer"
    #: It is cut, damaged, or no file of its kind.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """One file that can't be read."""

    #: Below the dataset's directory.
    path: str
    fault: FileFault
    #: What the library said that could not read it.
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One entry of `features` in meta/info.json."""

    dtype: str
    shape: tuple[int, ...]
    #: Names of the axes of an image or of the values of a vector; None where they are no list.
    names: tuple[str, ...] | None
    depth: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether it is an image or a video, depth maps included."""
        return self.dtype in ("image", "video")


@dataclass(frozen=True, kw_only=True)
class Stat:
    """One statistic of one feature: `mean`, `q01` …"""

    #: How many numbers it has.
    size: int
    #: Whether all of them are finite numbers.
    finite: bool


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """meta/tasks.parquet."""

    rows: int
    #: Whether the texts of the tasks are the table's index, which LeRobot takes them from.
    indexed_by_text: bool


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """meta/episodes/*/*.parquet."""

    rows: int
    #: The largest dataset_to_index.
    frames: int
    #: The first episode whose frames do not follow those of the one before it; None where all do.
    disordered: int | None = None
    #: How many of the episodes that the job uses have each first task.
    per_task: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frame whose time is furthest from any frame of its video, of those that were looked at."""

    #: How many frames of how many episodes were looked at.
    looked: int
    episodes: int
    #: Seconds between the frame's time and the nearest frame of the video.
    worst: float
    video: str = ""
    episode: int = 0
    #: Number of the frame in its episode.
    frame: int = 0
    #: Seconds in the video at which it was asked for.
    wanted: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Sizes of one camera's stored images, of those that were looked at."""

    camera: str
    #: Height and width, each with the number of the first frame that has it.
    sizes: tuple[tuple[int, int, int], ...]
    looked: int


@dataclass(frozen=True, kw_only=True)
class DatasetContents:
    """What was read; a field is None or empty where it was not."""

    version: str = ""
    fps: float | None = None
    total_episodes: int | None = None
    total_tasks: int | None = None
    features: Mapping[str, Feature] = field(default_factory=dict)
    bad_files: tuple[BadFile, ...] = ()
    #: Whether files of the format v2 lie in meta/ (episodes.jsonl, tasks.jsonl).
    has_v2_files: bool = False
    #: By feature and statistic; None where there is no meta/stats.json, or it was not looked at.
    stats: Mapping[str, Mapping[str, Stat]] | None = None
    tasks: Tasks | None = None
    episodes: Episodes | None = None
    #: Rows of data/*/*.parquet; None where they were not counted.
    rows: int | None = None
    #: Columns of the data that info.json does not know, and features that the data lack.
    extra_columns: tuple[str, ...] = ()
    lacking_columns: tuple[str, ...] = ()
    #: Episodes that the job uses and that no row belongs to.
    absent_episodes: tuple[int, ...] = ()
    #: The largest task_index of the rows that were looked at.
    max_task: int | None = None
    images: tuple[ImageSizes, ...] = ()
    frames: Frames | None = None

    @property
    def cameras(self) -> dict[str, Feature]:
        """Return its images and videos by name."""
        return {name: one for name, one in self.features.items() if one.is_camera}


def parse(told: Any) -> DatasetContents:
    """Return what the helper process told; whatever of it has not the right shape is absent."""
    told = _mapping(told)
    info = _mapping(told.get("info"))
    return DatasetContents(
        version=_text(info.get("codebase_version"))[:20],
        fps=_number(info.get("fps")),
        total_episodes=_count(info.get("total_episodes")),
        total_tasks=_count(info.get("total_tasks")),
        features=_features(info.get("features")),
        bad_files=tuple(found for one in _list(told.get("files")) if (found := _bad_file(one))),
        has_v2_files=told.get("v2_files") is True,
        stats=_stats(told["stats"]) if isinstance(told.get("stats"), Mapping) else None,
        tasks=_tasks(_mapping(told.get("tasks"))),
        episodes=_episodes(_mapping(told.get("episodes"))),
        rows=_count(told.get("rows")),
        extra_columns=_texts(told.get("extra_columns")),
        lacking_columns=_texts(told.get("lacking_columns")),
        absent_episodes=tuple(n for one in _list(told.get("absent_episodes")) if (n := _count(one)) is not None),
        max_task=_whole(told.get("max_task")),
        images=tuple(seen for one in _list(told.get("images")) if (seen := _image_sizes(_mapping(one)))),
        frames=_frames(_mapping(told.get("frames"))),
    )


def features_of(inputs: Any) -> dict[str, str]:
    """Return name -> type ("VISUAL", "STATE" …) of `input_features` in a policy's config.json."""
    inputs = _mapping(inputs)
    return {_text(name): _text(_mapping(one).get("type")) for name, one in list(inputs.items())[:MOST]}


def _features(told: Any) -> dict[str, Feature]:
    found = {}
    for name, one in list(_mapping(told).items())[:MOST]:
        one, info = _mapping(one), _mapping(_mapping(one).get("info"))
        video = _mapping(one.get("video_info"))
        names = one.get("names")
        found[_text(name)] = Feature(
            dtype=_text(one.get("dtype")),
            shape=tuple(side for side in map(_count, _list(one.get("shape"))) if side is not None),
            names=tuple(map(_text, names)) if isinstance(names, list) else None,
            depth=any((info.get("is_depth_map"), info.get("video.is_depth_map"), video.get("video.is_depth_map"))),
        )
    return found


def _stats(told: Mapping[Any, Any]) -> dict[str, dict[str, Stat]]:
    return {
        _text(name): {
            _text(stat): Stat(size=_count(_mapping(one).get("size")) or 0, finite=_mapping(one).get("finite") is True)
            for stat, one in list(_mapping(stats).items())[:MOST]
        }
        for name, stats in list(told.items())[:MOST]
    }


def _bad_file(told: Any) -> BadFile | None:
    told = _mapping(told)
    try:
        fault = FileFault(told.get("fault"))
    except ValueError:
        return None
    return BadFile(path=_text(told.get("path")), fault=fault, detail=_text(told.get("detail")))


def _tasks(told: Mapping[Any, Any]) -> Tasks | None:
    rows = _count(told.get("rows"))
    return None if rows is None else Tasks(rows=rows, indexed_by_text=told.get("indexed_by_text") is True)


def _episodes(told: Mapping[Any, Any]) -> Episodes | None:
    rows, frames = _count(told.get("rows")), _count(told.get("frames"))
    if rows is None or frames is None:
        return None
    counts = tuple(n for one in _list(told.get("per_task")) if (n := _count(one)) is not None)
    return Episodes(rows=rows, frames=frames, disordered=_count(told.get("disordered")), per_task=counts)


def _image_sizes(told: Mapping[Any, Any]) -> ImageSizes | None:
    sizes = []
    for one in _list(told.get("sizes"))[:10]:
        numbers = [_count(number) for number in _list(one)]
        if len(numbers) == 3 and None not in numbers:
            height, width, frame = (number or 0 for number in numbers)
            sizes.append((height, width, frame))
    camera = _text(told.get("camera"))
    return ImageSizes(camera=camera, sizes=tuple(sizes), looked=_count(told.get("looked")) or 0) if camera else None


def _frames(told: Mapping[Any, Any]) -> Frames | None:
    looked, worst = _count(told.get("looked")), _number(told.get("worst"))
    if looked is None or worst is None:
        return None
    return Frames(
        looked=looked,
        episodes=_count(told.get("episodes")) or 0,
        worst=worst,
        video=_text(told.get("video")),
        episode=_count(told.get("episode")) or 0,
        frame=_count(told.get("frame")) or 0,
        wanted=_number(told.get("wanted")) or 0.0,
    )


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value[:MOST] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value[:LONGEST] if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for one in _list(value) if (text := _text(one)))


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 2**53 else None


def _count(value: Any) -> int | None:
    number = _whole(value)
    return number if number is not None and number >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 else None
