"""Some rounds for real. Others than these: `make nemesis ROUNDS=1000 SEED=…`."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.nemesis.__main__ import played

#: The first of the seeds that are played each time.
SEED, ROUNDS = 26_11_22_00, 6


def test_rounds(tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    told = played(range(SEED, SEED + ROUNDS), min(ROUNDS, os.cpu_count() or 1), tmp_path / "logs")
    broken = [f"{round['story']}\n{round['violations']}\n" for round in told if round["violations"]]
    assert not broken, "\n".join(broken)
    assert len(told) == ROUNDS
    assert sum(sum(round["counts"]["faults"].values()) for round in told) > ROUNDS
    assert sum(round["counts"]["steps"] for round in told) > 100 * ROUNDS
