"""Atomic writes and sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pi0q.workers.host import files


def test_write_atomic_replaces_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "ledger.json"
    file.write_text("old")
    files.write_atomic(file, "new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]


def test_write_atomic_keeps_the_old_content_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ledger.json"
    file.write_text("old")

    def full(_: Path, __: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError):
        files.write_atomic(file, b"new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]


def test_write_atomic_gives_the_umask_or_the_mode_asked_for(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "plain", "x")
        files.write_atomic(tmp_path / "secret", "x", mode=0o600)
    finally:
        os.umask(umask)
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_make_private_closes_the_directory_to_other_users(tmp_path: Path) -> None:
    new, known = tmp_path / "a" / "home", tmp_path / "known"
    known.mkdir(mode=0o755)
    for place in (new, known):
        files.make_private(place)
        assert place.stat().st_mode & 0o777 == 0o700
