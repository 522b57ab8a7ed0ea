"""LeRobot's console, read where there is no hook."""

from __future__ import annotations

import pytest

from pi0q.workers.trainer import console

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


BAR = "\rTraining:  15%|█▌        | {}/{} [00:01<00:19,  4.90step/s]"


def test_a_bar_is_exact_also_after_a_resume() -> None:
    """It counts to what was left: of 50,000 steps it is resumed at 12,000."""
    read = console.Console(50_000)
    assert read.bar(BAR.format(0, 38_000).encode(), 1.0) is None, "no step was done yet"
    both = BAR.format(345, 38_000) + BAR.format(346, 38_000)
    assert read.bar(both.encode(), 2.0) == {"event": "step", "t": 2.0, "step": 12_346}
    assert read.bar(BAR.format(346, 38_000).encode(), 3.0) is None, "nothing new"
    told = read.line(LINE.format("12K"), 4.0)
    assert told and told["step"] == 12_346 and told["loss"] == 63.209


def test_bars_of_other_work_and_halves_of_bars_are_none() -> None:
    read = console.Console(100)
    for text in ("\rMap: 100%|███| 50/50 [00:00<00:00, 840 examples/s]", BAR.format(5, 100)[:25], ""):
        assert read.bar(text.encode(), 1.0) is None
    assert console.Console(0).bar(BAR.format(5, 100).encode(), 1.0) is None, "the last step is unknown"


def test_a_rounded_step_never_goes_back() -> None:
    read = console.Console(50_000)
    for count, step in (("999", 999), ("1K", 1000), ("1K", 1000)):
        told = read.line(LINE.format(count), 1.0)
        assert told and told["step"] == step


@pytest.mark.parametrize(
    "line",
    [
        "AUTOTUNE addmm(256x4096, 256x1024, 1024x4096)",
        "SingleProcess AUTOTUNE benchmarking takes 2.2 seconds and 1.3 seconds precompiling for 20 choices",
        "OutOfResources: out of resource: shared memory, Required: 180224, Hardware limit: 101376.",
        "Runtime error during autotuning: No valid triton configs. OutOfMemoryError: out of resource: triton_mm",
    ],
)
def test_what_torch_prints_while_it_compiles(line: str) -> None:
    assert console.compiling(line)


@pytest.mark.parametrize("line", ["", LINE.format("5"), "torch.OutOfMemoryError: CUDA out of memory."])
def test_what_is_no_compilation(line: str) -> None:
    assert not console.compiling(line)
