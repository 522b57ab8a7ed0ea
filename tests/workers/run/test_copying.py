"""The process that copies: its signs of life, and its faults in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.workers.run import copy_directory, copying
from tests.workers.run.saved import checkpoint


class Over(Exception):
    """The test has seen enough."""


@pytest.fixture
def clerk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[copying.Clerk]:
    share = tmp_path / "share"
    share.mkdir()
    saved = checkpoint(tmp_path / "checkpoints", 10)
    made = copying.Clerk({"act": "copy", "place": str(share), "job": "a1", "epoch": 1, "lease": "",
                          "checkpoint": saved.path, "keep": 1, "spared": []})  # fmt: skip
    yield made
    made._out.close()


def signs(clerk: copying.Clerk, monkeypatch: pytest.MonkeyPatch, *, others: float, own: float) -> int:
    """How often it tells that it lives, in a hundred pulses of so many seconds of computing each."""
    told, pulses = list[dict[str, Any]](), list[float]()

    def sleep(seconds: float) -> None:
        pulses.append(seconds)
        if len(pulses) == 100:
            raise Over

    monkeypatch.setattr(clerk, "tell", lambda **line: told.append(line))
    clock = SimpleNamespace(
        sleep=sleep,
        process_time=lambda: len(pulses) * (others + own),
        thread_time=lambda: len(pulses) * own,
    )
    monkeypatch.setattr(copying, "time", clock)
    with pytest.raises(Over):
        clerk.pulse()
    return len(told)


def test_on_a_busy_machine_it_lives_as_well(clerk: copying.Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two cores with eight busy processes it gets 3 ms in a pulse: a hash of 8 GB is no silence."""
    assert signs(clerk, monkeypatch, others=0.003, own=0.0) > 20


def test_its_own_pulse_is_no_sign_of_life(clerk: copying.Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signs(clerk, monkeypatch, others=0.0, own=0.02) == 1


def test_what_is_copied_is_copied_whatever_becomes_of_the_old_ones(
    clerk: copying.Clerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        """As httpx tells of a network: no OSError."""

    def cut(*_: object) -> list[int]:
        raise Cut

    monkeypatch.setattr(copy_directory.Directory, "prune", cut)
    assert clerk.copy() == {"copied": str(tmp_path / "share/a1/000010"), "gone": []}


def test_a_full_disk_is_told_by_its_name() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert copying.told(full, "/share", brings_back=False) == "/share is full: make room there"
    assert copying.told(full, "/share", brings_back=True) == "the data disk of this box is full: make room there"
