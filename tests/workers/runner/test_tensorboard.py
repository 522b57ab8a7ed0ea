"""TensorBoard files: what stands in them, joined over a job's lives, and a writer that fails or hangs."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from pi0q.workers.runner.tensorboard import TensorBoardLog
from pi0q.workers.runs import tensorboard_scalars
from pi0q.workers.runs.tensorboard_scalars import Scalars, directory

BY_TENSORBOARD = (
    sys.executable,
    "-c",
    "from pi0q.workers.runner import tensorboard_main as it; it.WRITERS = it.WRITERS[1:]; it.main()",
)


def step(number: int, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "t": 1.76e9 + number / 4, "loss": 1 / number, "lr": 2.5e-5, **more}


def live(log: TensorBoardLog, first: int, last: int, *, loss: float = 0.0) -> None:
    """One life of a trainer that begins after `first`, and whose losses are so much higher."""
    log.on_event({"event": "ready", "step": first, "t": 1.76e9})
    for number in range(first + 1, last + 1):
        log.on_event(step(number, loss=1 / number + loss))
    log.on_event({"event": "evaluated", "step": last, "t": 1.76e9 + last, "eval_loss": 0.5})
    log.on_exit()
    assert log._writer is not None
    assert log._writer.wait(60) == 0


# -- what is written: pure ----------------------------------------------------------------------------


def test_a_job_has_one_directory_whatever_its_name_is() -> None:
    assert directory(Path("/tf"), "grab_box", "a1b2c3d4e5f6") == Path("/tf/grab_box-a1b2c3d4e5f6")
    assert directory(Path("/tf"), "../../etc/x y", "a1b2") == Path("/tf/_.._etc_x_y-a1b2")


def test_seconds_of_a_step_are_counted_where_steps_follow_at_once() -> None:
    scalars = Scalars()
    first = scalars.of(step(1, grad_norm=3.0, update_s=0.2))
    assert first == {
        "step": 1,
        "t": 1.76e9 + 0.25,
        "scalars": {"train/loss": 1.0, "train/lr": 2.5e-5, "train/grad_norm": 3.0, "train/update_seconds": 0.2},
    }
    second, third = scalars.of(step(2)), (scalars.of({"event": "saving", "step": 2, "t": 1.0}), scalars.of(step(3)))[1]
    assert second and second["scalars"]["train/step_seconds"] == 0.25
    assert third and "train/step_seconds" not in third["scalars"]


@pytest.mark.parametrize(
    "wrong",
    [{"step": True}, {"step": -1}, {"step": "7"}, {"t": None}, {"t": math.nan}, {"step": 1 << 60}, {"event": "start"}],
)
def test_an_event_that_makes_no_sense_is_left_out(wrong: dict[str, Any]) -> None:
    assert Scalars().of(step(1) | wrong) is None
    assert Scalars().of({**step(1), "loss": "nan", "lr": None}) is None


def test_long_trainings_are_thinned_and_held_out_losses_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard_scalars, "MOST_STEPS", 5)
    scalars = Scalars()
    lines = [scalars.of(step(number)) for number in range(1, 41)]
    assert [line["step"] for line in lines if line and scalars.is_due(line)] == [1, 2, 3, 4, 5, 10, 20, 30, 40]
    held_out = scalars.of({"event": "evaluated", "step": 41, "t": 1.0, "eval_loss": 0.5})
    assert held_out and scalars.is_due(held_out)


# -- the files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [TensorBoardLog.argv, BY_TENSORBOARD], ids=["tensorboardX", "tensorboard"])
def test_a_resumed_job_is_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]) -> None:
    """Killed at step 8, resumed from the checkpoint of step 5: TensorBoard's own reader sees each step once."""
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(TensorBoardLog, "argv", argv)
    place = tmp_path / "grab_box-a1b2"
    live(TensorBoardLog(place), 0, 8, loss=7.0)
    live(TensorBoardLog(place), 5, 10)
    seen = reader.EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    losses = {one.step: round(one.value - 1 / one.step, 3) for one in seen.Scalars("train/loss")}
    assert losses == {**dict.fromkeys(range(1, 6), 7.0), **dict.fromkeys(range(6, 11), 0.0)}
    assert [one.step for one in seen.Scalars("train/loss")] == list(range(1, 11))
    assert seen.Scalars("train/loss")[-1].wall_time == 1.76e9 + 2.5
    assert [(one.step, one.value) for one in seen.Scalars("eval/loss")] == [(10, 0.5)]
    assert seen.Scalars("train/step_seconds")[-1].value == 0.25


def test_a_place_that_cannot_be_written_ends_the_writer_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").write_text("")
    log = TensorBoardLog(tmp_path / "file" / "job")
    log.on_event({"event": "ready", "step": 0, "t": 1.0})
    assert log._writer is not None
    log._writer.wait(60)
    for number in range(1, 10):
        log.on_event(step(number))
    log.on_exit()


def test_a_writer_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipe takes some hundred lines; without dropping, the next event would wait for ever."""
    monkeypatch.setattr(TensorBoardLog, "argv", ("/bin/sleep", "600"))
    log = TensorBoardLog(tmp_path)
    log.on_event({"event": "ready", "step": 0, "t": 1.0})
    for number in range(1, 5000):
        log.on_event(step(number))
    log.on_exit()
    assert log._writer is not None
    log._writer.kill()
    log._writer.wait(60)
