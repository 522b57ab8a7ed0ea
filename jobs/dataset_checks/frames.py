"""Hold the frames that were looked at against each other and against their videos: sizes of images, times of frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pi0q.jobs.dataset_checks.contents import DatasetContents, Frames, ImageSizes
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.outcome import Reason
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.schema.value_types import Value

#: LeRobot's own tolerance (TrainPipelineConfig.tolerance_s), seconds.
TOLERANCE = 1e-4


def check(contents: DatasetContents, train: Mapping[str, Value], at: Source) -> Iterator[Finding]:
    """Yield what a batch would stumble over."""
    if number(train, "batch_size") > 1 and not train.get("dataset.image_transforms.enable"):
        for images in contents.images:
            yield from _sizes(images, at)
    if contents.frames:
        yield from _times(contents.frames, contents.fps, train, at)


def _sizes(images: ImageSizes, at: Source) -> Iterator[Finding]:
    if len(images.sizes) < 2:
        return
    (height, width, _), (other_height, other_width, frame), *_ = images.sizes
    yield Finding(
        what=f"The images of {images.camera} have more than one size: {width} x {height}, and {other_width} x "
        f"{other_height} at frame {frame} (LeRobot: stack expects each tensor to be equal size; {images.looked} images "
        "were looked at)",
        where=f"data/: {images.camera}",
        cure=f"scale them to one size in the dataset, or leave the episodes out with train.dataset.episodes{at.after}",
    )


def _times(frames: Frames, fps: float | None, train: Mapping[str, Value], at: Source) -> Iterator[Finding]:
    """LeRobot takes the frame of a video whose time is nearest, and ends where that is too far away."""
    given = train.get("tolerance_s")
    tolerance = float(given) if isinstance(given, (int, float)) else TOLERANCE
    if frames.worst < tolerance:
        return
    looked = f"{frames.looked} frames of {frames.episodes} episodes were looked at"
    where = f"{frames.video}: episode {frames.episode}, frame {frames.frame}"
    if fps and frames.worst < 1 / fps:
        enough = _rounded_up(frames.worst)
        yield Finding(
            what=f"Frame {frames.frame} of episode {frames.episode} is {frames.worst:.2g} s off the nearest one of its "
            f"video, and LeRobot takes {tolerance:g} s ({looked})",
            where=where,
            cure=f"`train.tolerance_s: {enough:g}`, less than one frame at {fps:g} fps",
            reason=Reason.SPEC_REFUSED,
        )
        return
    yield Finding(
        what=f"Frame {frames.frame} of episode {frames.episode} is to be at {frames.wanted:.3f} s of its video, and "
        f"the nearest one is {frames.worst:.3g} s away ({looked})",
        where=where,
        cure=f"leave the episode out with train.dataset.episodes, or record it anew{at.after}",
    )


def _rounded_up(seconds: float) -> float:
    """Return twice as much, rounded up to one digit: what was not looked at may be a little further off."""
    step = 10.0 ** math.floor(math.log10(seconds))
    return math.ceil(2 * seconds / step) * step
