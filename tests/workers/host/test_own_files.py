"""Directories and files that somebody else may have prepared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pi0q.workers.host.own_files import Untrusted, open_for_reading, open_for_writing, own_directory

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


def test_a_directory_of_ones_own_is_made_and_found_again(tmp_path: Path) -> None:
    with own_directory(tmp_path, "job", make=True) as folder:
        (folder / "a").write_text("1")
    with own_directory(tmp_path, "job") as folder:
        assert (folder / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


def test_one_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), own_directory(tmp_path, "job"):
        pass


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "job").symlink_to(tmp_path / "other")

    with pytest.raises(Untrusted, match="job is a link or a file"), own_directory(tmp_path, "job", make=True):
        pass


def test_it_stays_the_same_whatever_is_renamed(tmp_path: Path) -> None:
    with own_directory(tmp_path, "job", make=True) as folder:
        (tmp_path / "job").rename(tmp_path / "gone")
        (tmp_path / "job").symlink_to("/etc")
        (folder / "a").touch()

    assert (tmp_path / "gone" / "a").exists()


def test_one_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job").chmod(0o777)

    with pytest.raises(Untrusted, match=r"can be written by other users.*remove it"), own_directory(tmp_path, "job"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


@root
def test_another_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    os.chown(tmp_path / "job", 65534, 65534)

    with pytest.raises(Untrusted, match="belongs to another user"), own_directory(tmp_path, "job"):
        pass


def test_files_are_not_opened_through_links_or_second_names(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.link(tmp_path / "precious", tmp_path / "second")

    for append in (False, True):
        with pytest.raises(Untrusted, match="is a link"):
            open_for_writing(tmp_path / "link", append=append)
        with pytest.raises(Untrusted, match="no regular file of its own"):
            open_for_writing(tmp_path / "second", append=append)
    with pytest.raises(Untrusted, match="is a link"):
        open_for_reading(tmp_path / "link")

    assert (tmp_path / "precious").read_text() == "precious"


def test_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(Untrusted):
        open_for_reading(tmp_path / "pipe")
    with pytest.raises(OSError):
        open_for_writing(tmp_path / "pipe")


def test_files_are_written_and_appended_to(tmp_path: Path) -> None:
    for append, expected in ((False, b"a"), (True, b"aa"), (False, b"a")):
        with open_for_writing(tmp_path / "x", append=append) as file:
            file.write(b"a")
        with open_for_reading(tmp_path / "x") as file:
            assert file.read() == expected
