"""A child process and what becomes of it: whatever that is, it is told, and nobody waits for it for ever."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pi0q.workers.run import child


def heard(argv: list[str], order: dict[str, Any] | None = None, stall_seconds: float = 30.0) -> list[dict[str, Any]]:
    lines = child.hear(argv, order or {}, env={}, stall_seconds=stall_seconds, what="it", silence="no word came")
    return [line for line in lines if line is not None]


def test_its_lines_come_as_they_are_said() -> None:
    echo = "import sys; order = sys.stdin.readline(); print(order, end='', flush=True); print('{\"b\": 2}')"
    first, second = heard([sys.executable, "-c", echo], {"a": 1})
    assert (first["a"], second) == (1, {"b": 2})


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/none/there"], "it could not be started: .*No such file"),
        (["/bin/false"], "it broke off"),
        (["/bin/sh", "-c", "kill -9 $$"], "it was ended by SIGKILL"),
    ],
)
def test_one_that_comes_to_nothing_says_how(argv: list[str], why: str) -> None:
    """Whether it is there at all, and whether it ever reads its order: this one is longer than a pipe holds."""
    with pytest.raises(child.Broken, match=why):
        heard(argv, {"long": "x" * 2_000_000})


def test_a_silent_one_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "START_SECONDS", 0.1)
    with pytest.raises(child.Broken, match="no word came for 0 s"):
        heard(["/bin/sleep", "60"], stall_seconds=0.1)
