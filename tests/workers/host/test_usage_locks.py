"""Marks of use: a lock that goes with its process, a time, a pin."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.workers.host import usage_locks

HOLDER = """
import sys
from pathlib import Path
from pi0q.workers.host import usage_locks
usage_locks.hold(Path(sys.argv[1]), "models--a--b", touch=sys.argv[2] == "touch")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    usage_locks.release()


def holder(marks: Path, how: str = "touch") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", HOLDER, str(marks), how]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_what_a_process_uses_is_in_use_until_it_is_gone_however_it_goes(tmp_path: Path) -> None:
    with holder(tmp_path) as one, holder(tmp_path) as other:
        for process in (one, other):
            assert usage_locks.in_use(tmp_path, "models--a--b")
            with usage_locks.alone(tmp_path, "models--a--b") as free:
                assert not free
            process.kill()
            process.wait()
    assert not usage_locks.in_use(tmp_path, "models--a--b")
    with usage_locks.alone(tmp_path, "models--a--b") as free:
        assert free


def test_who_comes_while_it_is_removed_waits(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path), "touch"]
    with usage_locks.alone(tmp_path, "models--a--b") as free:
        assert free
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        assert usage_locks.in_use(tmp_path, "models--a--b"), "removed, that is"
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.kill()


def test_the_last_use_is_the_time_of_the_last_run_and_never_a_reader_s(tmp_path: Path) -> None:
    assert usage_locks.last(tmp_path, "models--a--b") == 0
    with usage_locks.alone(tmp_path, "models--a--b"):
        pass
    assert usage_locks.last(tmp_path, "models--a--b") == 0
    usage_locks.hold(tmp_path, "models--a--b", touch=False)
    assert usage_locks.last(tmp_path, "models--a--b") == 0
    usage_locks.hold(tmp_path, "models--a--b")
    assert usage_locks.last(tmp_path, "models--a--b") > 1e9


def test_a_use_counts_to_its_end(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        # Long ago: on most file systems two times that are a moment apart are one.
        os.utime(tmp_path / "models--a--b.used", (1, 1))
        process.communicate("")
    assert usage_locks.last(tmp_path, "models--a--b") > 1e9


def test_a_place_that_can_t_be_written_to_keeps_nobody_from_running(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    usage_locks.hold(tmp_path / "file" / "marks", "models--a--b")


def test_where_there_are_no_locks_nothing_counts_as_unused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage_locks.hold(tmp_path, "models--a--b")
    usage_locks.release()
    assert not usage_locks.in_use(tmp_path, "models--a--b")

    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert usage_locks.in_use(tmp_path, "models--a--b")
    with usage_locks.alone(tmp_path, "models--a--b") as free:
        assert not free


def test_pins(tmp_path: Path) -> None:
    assert not usage_locks.pinned(tmp_path, "models--a--b")
    usage_locks.pin(tmp_path, "models--a--b", True)
    assert usage_locks.pinned(tmp_path, "models--a--b")
    for _ in range(2):
        usage_locks.pin(tmp_path, "models--a--b", False)
    assert not usage_locks.pinned(tmp_path, "models--a--b")
