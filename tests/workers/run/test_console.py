"""LeRobot's console, read where there is no hook."""

from __future__ import annotations

import pytest

from pi0q.workers.run import console

LINE = (
    "INFO 2026-11-22 11:46:44 ot_train.py:641 step:{} smpl:10 ep:0 epch:0.05 loss:63.209 grdn:303.550 lr:1.0e-05 "
    "updt_s:0.280 data_s:0.029 smp/s:6 mem_gb:34.88"
)


@pytest.mark.parametrize(
    ("count", "step"), [("5", 5), ("999", 999), ("12K", 12_000), ("1.5K", 1_500), ("2M", 2_000_000)]
)
def test_a_step_line_is_a_step_as_exact_as_it_is_written(count: str, step: int) -> None:
    assert console.Console(9).line(LINE.format(count), 7.0) == {
        "event": "step",
        "t": 7.0,
        "step": step,
        "loss": 63.209,
        "lr": 1e-05,
    }


def test_a_save_begins() -> None:
    line = "INFO 2026-11-22 14:32:39 ot_train.py:687 Checkpoint policy after step 40"
    assert console.Console(9).line(line, 1.0) == {"event": "saving", "t": 1.0, "step": 40}


@pytest.mark.parametrize("line", ["", "step:x loss: lr:", LINE.format("1.2.3"), "Map: 100%", "loss:1 lr:2 step:"])
def test_any_other_line_is_none(line: str) -> None:
    assert console.Console(9).line(line, 1.0) is None
