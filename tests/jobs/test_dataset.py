from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from pi0q.jobs.dataset import DatasetInfo, Images, fault, newer

INFO: dict[str, Any] = {
    "codebase_version": "v3.0",
    "total_episodes": 4,
    "features": {
        "observation.images.top": {"dtype": "video", "shape": [480, 640, 3]},
        "observation.state": {"dtype": "float32", "shape": [6]},
    },
}
TRAIN: dict[str, Any] = {"dataset.repo_id": "you/grab_box"}


def test_what_matters_of_a_dataset() -> None:
    assert DatasetInfo.read(INFO) == DatasetInfo(
        format="v3.0", episodes=4, videos=True, frame_bytes=480 * 640 * 3 * 4, cameras=1, height=480, width=640
    )
    assert not DatasetInfo.read(
        {**INFO, "features": {"observation.images.top": {"dtype": "image", "shape": [8, 8]}}}
    ).videos


@pytest.mark.parametrize(
    "info",
    [None, [], "", {}, {"features": [1]}, {"features": {"a": 1}, "total_episodes": "x"},
     {"features": {"a": {"dtype": ["video"]}}}],
)  # fmt: skip
def test_nothing_that_a_dataset_says_is_too_odd(info: object) -> None:
    assert DatasetInfo.read(info) == DatasetInfo(format="", episodes=None, videos=False, frame_bytes=0)


def test_images_are_counted_and_the_largest_is_measured_whichever_side_its_channels_are_on() -> None:
    features = {"a": {"dtype": "image", "shape": [3, 480, 640]}, "b": {"dtype": "video", "shape": [120, 160, 3]}}

    assert DatasetInfo.read({"features": features}).images == Images(cameras=2, height=480, width=640)


@pytest.mark.parametrize("shape", [[], [10**9, 10**9, 3], ["a", 2, 3], [True, 2, 3], None])
def test_images_of_an_odd_shape_are_not_believed(shape: object) -> None:
    assert DatasetInfo.read({"features": {"a": {"dtype": "image", "shape": shape}}}).images is None


@pytest.mark.parametrize("version", ["v3.0", "3.1", "", "odd"])
def test_what_can_be_read_is_no_fault(version: str) -> None:
    facts = DatasetInfo.read({**INFO, "codebase_version": version})
    assert fault(facts, TRAIN) == newer(facts) == ""


def test_an_old_format_is_told_with_its_conversion() -> None:
    told = fault(DatasetInfo.read({**INFO, "codebase_version": "v2.1"}), TRAIN)
    assert "convert_dataset_v21_to_v30 --repo-id=you/grab_box" in told and "to v2.1" not in told
    assert "to v2.1 with an older LeRobot first" in fault(DatasetInfo.read({**INFO, "codebase_version": "v2.0"}), TRAIN)


def test_a_newer_format_may_be_read_by_another_box() -> None:
    facts = DatasetInfo.read({**INFO, "codebase_version": "v4.0"})
    assert fault(facts, TRAIN) == "" and "v4.0" in newer(facts)


def test_an_episode_that_is_not_there() -> None:
    assert "episode 4, and dataset you/grab_box has 4 (0 to 3)" in fault(
        DatasetInfo.read(INFO), {**TRAIN, "dataset.episodes": [0, 4]}
    )
    assert fault(DatasetInfo.read(INFO), {**TRAIN, "dataset.episodes": [0, 3]}) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("format", 3), ("episodes", "y"), ("videos", 1), ("frame_bytes", "x"), ("cameras", True), ("height", -1),
     ("width", 1e9), ("frame_bytes", 2**60)],
)  # fmt: skip
def test_facts_of_a_record_that_no_box_writes_are_not_believed(field: str, value: object) -> None:
    facts = asdict(DatasetInfo.read(INFO))

    assert DatasetInfo.from_record(facts) == DatasetInfo.read(INFO)
    assert DatasetInfo.from_record({**facts, field: value}) is None
