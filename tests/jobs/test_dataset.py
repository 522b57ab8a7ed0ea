from __future__ import annotations

from typing import Any

import pytest

from pi0q.jobs.dataset import Facts, fault, newer

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
    assert Facts.read(INFO) == Facts(format="v3.0", episodes=4, videos=True, frame_bytes=480 * 640 * 3 * 4)
    assert not Facts.read({**INFO, "features": {"observation.images.top": {"dtype": "image", "shape": [8, 8]}}}).videos


@pytest.mark.parametrize(
    "info",
    [None, [], "", {}, {"features": [1]}, {"features": {"a": 1}, "total_episodes": "x"},
     {"features": {"a": {"dtype": ["video"]}}}],
)  # fmt: skip
def test_nothing_that_a_dataset_says_is_too_odd(info: object) -> None:
    assert Facts.read(info) == Facts(format="", episodes=None, videos=False, frame_bytes=0)


@pytest.mark.parametrize("version", ["v3.0", "3.1", "", "odd"])
def test_what_can_be_read_is_no_fault(version: str) -> None:
    facts = Facts.read({**INFO, "codebase_version": version})
    assert fault(facts, TRAIN) == newer(facts) == ""


def test_an_old_format_is_told_with_its_conversion() -> None:
    told = fault(Facts.read({**INFO, "codebase_version": "v2.1"}), TRAIN)
    assert "convert_dataset_v21_to_v30 --repo-id=you/grab_box" in told and "to v2.1" not in told
    assert "to v2.1 with an older LeRobot first" in fault(Facts.read({**INFO, "codebase_version": "v2.0"}), TRAIN)


def test_a_newer_format_may_be_read_by_another_box() -> None:
    facts = Facts.read({**INFO, "codebase_version": "v4.0"})
    assert fault(facts, TRAIN) == "" and "v4.0" in newer(facts)


def test_an_episode_that_is_not_there() -> None:
    assert "episode 4, and dataset you/grab_box has 4 (0 to 3)" in fault(
        Facts.read(INFO), {**TRAIN, "dataset.episodes": [0, 4]}
    )
    assert fault(Facts.read(INFO), {**TRAIN, "dataset.episodes": [0, 3]}) == ""
