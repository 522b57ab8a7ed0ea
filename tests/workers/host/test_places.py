"""Which directories of a box a job file may name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pi0q.workers.host.places import others_can_write, refusal

SETTING = "PI0Q_COPY_ROOTS"
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


def refused(place: Path | str, *roots: Path, also: tuple[Path, ...] = ()) -> str:
    return refusal(Path(place), roots, setting=SETTING, also=also)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("/", "system"),
        ("/etc", "system"),
        ("/etc/cron.d/x", "system"),
        ("/usr/bin", "system"),
        ("/boot", "system"),
        ("/proc", "system"),
        ("/proc/self/root/etc", "system"),
        ("/dev", "system"),
        ("/var/spool/cron", "system"),
        ("/root", "home directory"),
        ("/home", "home directory"),
        ("/home/me", "home directory"),
        ("/root/.ssh", "hidden"),
        ("/home/me/.config/autostart", "hidden"),
    ],
)
def test_what_is_not_a_jobs_is_refused(place: str, why: str) -> None:
    said = refused(place)

    assert why in said
    assert said.endswith("name a directory of your own; the box's owner may list others in PI0Q_COPY_ROOTS")


@pytest.mark.parametrize(
    "place", ["/mnt/share/checkpoints", "/data/x", "/root/autodl-fs/checkpoints", "/home/me/checkpoints"]
)
def test_ordinary_directories_and_mounted_disks_are_taken(place: str) -> None:
    assert refused(place) == ""


def test_a_directory_of_ones_own_is_taken_whether_it_is_there_or_not(tmp_path: Path) -> None:
    assert refused(tmp_path) == ""
    assert refused(tmp_path / "not" / "yet") == ""


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to("/etc")

    assert "system" in refused(tmp_path / "mine")
    assert "system" in refused(tmp_path / "mine" / "new")


@pytest.mark.parametrize("name", ["box.id", "up.json", "server.conf"])
def test_pi0qs_own_directories_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    assert f"belongs to pi0q ({tmp_path})" in refused(tmp_path / "server")
    assert refused(tmp_path / "runs", also=(tmp_path,)) == ""


def test_a_list_of_the_owners_rules_alone(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"

    assert refused(allowed / "x", allowed) == ""
    assert refused(allowed, tmp_path / "other", allowed) == ""
    assert refused("/etc/x", Path("/etc")) == ""
    assert refused(tmp_path / "allowed-not", allowed).endswith(f"({allowed}; its owner may set PI0Q_COPY_ROOTS)")


def test_a_link_out_of_the_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "out").symlink_to(tmp_path)

    assert "outside of what this box allows" in refused(tmp_path / "allowed" / "out", tmp_path / "allowed")


def test_what_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert "can be written by other users (mode 777)" in refused(tmp_path)
    assert "can be written by other users" in refused(tmp_path / "new")
    tmp_path.chmod(0o1777)
    assert refused(tmp_path) == ""


@root
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)

    assert "belongs to another user (uid 65534)" in refused(tmp_path)


def test_ones_own_group_is_nobody_else(tmp_path: Path) -> None:
    """A umask of 002 makes everything writable by the group, in which the user is alone."""
    tmp_path.chmod(0o775)
    info = list(tmp_path.stat())
    assert others_can_write(os.stat_result(info)) in ("", "can be written by other users (mode 775)")
    info[stat.ST_GID] = 987_654

    assert "by other users" in others_can_write(os.stat_result(info))
