"""The run's directory and the runner's name tag in it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from pi0q.workers.host import identity
from pi0q.workers.runs.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "runs" / "abc")
    made.make()
    return made


def retagged(directory: RunDirectory, **changed: object) -> None:
    tag = json.loads(directory.pidfile.read_text())
    directory.pidfile.write_text(json.dumps(tag | changed))


def test_it_is_made_with_a_fresh_pipe_only_we_can_read(directory: RunDirectory) -> None:
    mode = directory.pipe.stat().st_mode
    assert stat.S_ISFIFO(mode) and stat.S_IMODE(mode) == 0o600
    # Held open: its number is not given to the next one.
    before = os.open(directory.pipe, os.O_RDWR)
    directory.make()
    assert directory.pipe.stat().st_ino != os.fstat(before).st_ino
    os.close(before)


def test_who_signed_lives_under_its_epoch_only(directory: RunDirectory) -> None:
    assert directory.live_runner(3) is None
    directory.write_pidfile("abc", 3)
    assert directory.live_runner(3) == os.getpid()
    assert directory.live_runner(2) is None and directory.live_runner(4) is None


@pytest.mark.parametrize("changed", [{"start_time": 1}, {"boot": "another"}, {"pid": 2**22 - 1}])
def test_another_process_of_that_pid_is_not_taken_for_it(directory: RunDirectory, changed: dict[str, object]) -> None:
    directory.write_pidfile("abc", 3)
    retagged(directory, **changed)
    assert directory.live_runner(3) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_torn_tag_is_nobody(directory: RunDirectory, text: str) -> None:
    directory.pidfile.write_text(text)
    assert directory.live_runner(3) is None and directory.other_runner(4) is None


def test_only_a_runner_of_an_earlier_epoch_is_in_the_way(directory: RunDirectory) -> None:
    """A runner that overslept must not take its successor for a predecessor."""
    directory.write_pidfile("abc", 3)
    assert directory.other_runner(4) == os.getpid()
    assert directory.other_runner(3) is None and directory.other_runner(2) is None


def test_an_output_in_the_way_of_a_fresh_start_is_kept_aside(directory: RunDirectory) -> None:
    directory.set_output_aside()
    for content in ("first", "second"):
        directory.output.mkdir()
        (directory.output / "weights").write_text(content)
        directory.set_output_aside()
        assert not directory.output.exists()
        assert (directory.path / "output.old" / "weights").read_text() == content


def test_its_size_is_what_it_takes_of_the_disk(directory: RunDirectory) -> None:
    assert directory.size_mib() == 0
    directory.output.mkdir()
    (directory.output / "weights").write_bytes(os.urandom(3 * 1024 * 1024))
    with (directory.output / "hole").open("wb") as sparse:
        sparse.truncate(50 * 1024 * 1024)
    (directory.output / "link").symlink_to(directory.output / "weights")
    assert directory.size_mib() == 3


def test_the_host_runs_since_the_last_runner_signed(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not directory.same_host_boot(), "nobody has signed"
    directory.write_pidfile("abc", 3)
    assert directory.same_host_boot()
    host = identity.host_of(identity.boot())
    retagged(directory, boot=f"{host}-12345")
    assert directory.same_host_boot(), "only the container was restarted"
    retagged(directory, boot="00000000-1")
    assert not directory.same_host_boot()
    retagged(directory, boot=f"{identity.UNKNOWN_HOST}-1")
    monkeypatch.setattr(identity, "boot", lambda: f"{identity.UNKNOWN_HOST}-1")
    assert not directory.same_host_boot(), "one that can't be told is not trusted"
    directory.pidfile.write_text("{")
    assert not directory.same_host_boot()


def test_wandb_runs_of_two_lives_that_began_in_the_same_second_are_both_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for life in ("first", "second", "third"):
        offline = run.output / "wandb" / "offline-run-20261122_120000-a"
        offline.mkdir(parents=True)
        (offline / "of").write_text(life)
        run.set_output_aside()
    assert sorted((kept / "of").read_text() for kept in run.wandb.glob("*run-*")) == ["first", "second", "third"]
