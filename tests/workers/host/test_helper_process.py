"""A helper process and its parent: whatever becomes of the child, it is reported, and nobody waits for it for ever."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import pytest

from pi0q.workers.host import helper_process
from pi0q.workers.host.helper_process import Helper


def helper(*argv: str) -> Helper:
    return Helper(argv=argv, name="the test", silence="no line came", log="some.log")


def lines(*argv: str, request: dict[str, Any] | None = None, stall_seconds: float = 30.0) -> list[dict[str, Any]]:
    running = helper_process.run_jsonl(helper(*argv), request or {}, env={}, stall_seconds=stall_seconds)
    return [line for line in running if line is not None]


def test_lines_arrive_in_order() -> None:
    echo = "import sys; request = sys.stdin.readline(); print(request, end='', flush=True); print('{\"b\": 2}')"
    first, second = lines(sys.executable, "-c", echo, request={"a": 1})
    assert (first, second) == ({"a": 1, "parent": os.getpid()}, {"b": 2})


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/none/there"], "the test could not be started: .*No such file"),
        (["/bin/false"], "the test broke off: see some.log"),
        (["/bin/sh", "-c", "kill -9 $$"], "the test was ended by SIGKILL"),
    ],
)
def test_a_failed_helper_is_reported_by_how_it_ended(argv: list[str], why: str) -> None:
    """Whether it starts at all, and whether it ever reads its request: this one is longer than a pipe holds."""
    with pytest.raises(helper_process.ChildFailed, match=why):
        lines(*argv, request={"long": "x" * 2_000_000})


def test_a_silent_helper_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper_process, "START_SECONDS", 0.1)
    with pytest.raises(helper_process.ChildFailed, match="no line came for 0 s"):
        lines("/bin/sleep", "60", stall_seconds=0.1)


def test_setting_stop_ends_the_helper() -> None:
    stop = threading.Event()
    running = helper_process.run_jsonl(
        helper("/bin/sh", "-c", "echo '{}'; exec sleep 60"), {}, env={}, stall_seconds=30.0, stop=stop
    )
    assert next(running) == {}
    stop.set()
    assert list(running) == []
