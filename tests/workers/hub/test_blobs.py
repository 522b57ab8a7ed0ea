"""Progress of a download, read off the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi0q.workers.hub.blobs import Blob, amount, progress


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (3_100_000_000, 14_000_000_000, "3.1/14.0 GB"),
        (0, 22_000_000, "0.0/22.0 MB"),
        (512, 4096, "0.5/4.1 kB"),
        (0, 7, "0.0/7.0 B"),
    ],
)
def test_amounts_in_one_unit(done: int, total: int, text: str) -> None:
    assert amount(done, total) == text


@pytest.mark.parametrize("part", ["aa.incomplete", "aa.0123abcd.incomplete"])
def test_whole_files_and_parts_count(tmp_path: Path, part: str) -> None:
    (tmp_path / part).write_bytes(b"x" * 300)
    (tmp_path / "bb").write_bytes(b"x" * 200)
    (tmp_path / "of-another-commit").write_bytes(b"x" * 999)
    asked = Blob(name="aa", size=600), Blob(name="bb", size=200)
    assert progress({tmp_path: asked}) == (500, 800)


def test_a_content_that_two_files_share_counts_once(tmp_path: Path) -> None:
    (tmp_path / "aa").write_bytes(b"x" * 5)
    asked = Blob(name="aa", size=5), Blob(name="aa", size=5), Blob(name="bb", size=5)
    assert progress({tmp_path: asked}) == (5, 10)


def test_all_is_there_if_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "aa").write_bytes(b"x" * 5)
    assert progress({tmp_path: [Blob(name="aa", size=5)]}) == (5, 5)
    assert progress({tmp_path: []}) == progress({}) == (0, 0)


def test_a_directory_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert progress({tmp_path / "blobs": [Blob(name="aa", size=7)]}) == (0, 7)
