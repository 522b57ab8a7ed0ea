from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pi0q.jobs.checkpoint import ADAPTER, REQUIRED, WEIGHTS, File, Manifest, differences, missing, step_of, to_remove

WHOLE = {path: File(bytes=10 + number, sha256=f"{number:064d}") for number, path in enumerate((*REQUIRED, WEIGHTS))}
MANIFEST = Manifest(step=20000, epoch=2, files=WHOLE)


def test_a_manifest_survives_its_file() -> None:
    assert Manifest.from_json(json.loads(json.dumps(MANIFEST.to_json()))) == MANIFEST
    assert MANIFEST.bytes == 10 + 11 + 12 + 13 + 14


@pytest.mark.parametrize(
    "raw",
    [
        {},
        [],
        {"step": 1},
        {"step": 1, "epoch": 1, "files": ["config.json"]},
        {"step": 1, "epoch": 1, "files": {"config.json": {"bytes": 1}}},
        {"step": "x", "epoch": 1, "files": {}},
        {"step": None, "epoch": 1, "files": {}},
    ],
)
def test_what_is_no_manifest_is_told_by_the_errors_it_promises(raw: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Manifest.from_json(raw)


@pytest.mark.parametrize(
    ("name", "step"),
    [("000010", 10), ("50000", 50000), ("last", None), ("", None), ("-1", None), ("٣", None), ("000010.part", None)],
)
def test_a_checkpoint_is_named_after_its_step(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_a_checkpoint_that_is_the_same_has_no_differences() -> None:
    assert differences(MANIFEST, WHOLE) == []


def test_files_beside_the_manifest_are_no_fault() -> None:
    assert differences(MANIFEST, WHOLE | {"README.md": File(bytes=1, sha256="0")}) == []


def test_every_way_to_differ_is_told() -> None:
    gone, cut, flipped, *_ = REQUIRED
    found = dict(WHOLE)
    del found[gone]
    found[cut] = replace(found[cut], bytes=3)
    found[flipped] = replace(found[flipped], sha256="f" * 64)
    assert differences(MANIFEST, found) == [
        f"{gone} is gone",
        f"{cut} has 3 bytes instead of 11",
        f"{flipped} has other bytes than were saved",
    ]


@pytest.mark.parametrize("path", [*REQUIRED, WEIGHTS])
def test_a_manifest_without_what_a_resume_needs_never_verifies(path: str) -> None:
    part = {other: file for other, file in WHOLE.items() if other != path}
    assert missing(part) == [path]
    assert differences(replace(MANIFEST, files=part), part) == [f"{path} is not complete"]


def test_an_adapter_takes_the_place_of_the_weights() -> None:
    """With PEFT LeRobot saves the adapter alone (common/train_utils.py, save_checkpoint)."""
    assert missing([*REQUIRED, *ADAPTER]) == []
    assert missing([*REQUIRED, ADAPTER[1]]) == [ADAPTER[0]]
    assert missing([*REQUIRED, ADAPTER[0]]) == [ADAPTER[1]]


@pytest.mark.parametrize(
    ("verified", "keep", "gone"),
    [
        ([10, 20, 30], 2, [10]),
        ([30, 10, 20], 1, [10, 20]),
        ([10, 20], 2, []),
        ([10], 5, []),
        ([], 2, []),
        # Whatever is asked for, the last one stays.
        ([10, 20], 0, [10]),
        ([10], -1, []),
    ],
)
def test_the_newest_are_kept(verified: list[int], keep: int, gone: list[int]) -> None:
    assert to_remove(verified, keep) == gone
