"""A checkpoint goes on with as many ranks as trained it, unless its user changed the number."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.workers.runner import rank_count
from pi0q.workers.runs.stop import Stop


def saved(place: Path, **state: object) -> Saved:
    (place / "training_state").mkdir()
    (place / rank_count.STATE).write_text(json.dumps({"step": 10, **state}))
    return Saved(step=10, path=str(place), manifest="ab" * 32, bytes=1)


def context(gpus: int, continues: str = "") -> Any:
    record = SimpleNamespace(gpus=tuple(f"GPU-{one}" for one in range(gpus)), continues=continues)
    return SimpleNamespace(record=record, job_id="a1b2c3d4e5f6")


@pytest.mark.parametrize(("gpus", "state"), [(2, {"num_processes": 2}), (0, {"num_processes": 1}), (3, {})])
def test_the_same_number_goes_on_and_one_that_is_not_told_too(tmp_path: Path, gpus: int, state: Any) -> None:
    rank_count.check(context(gpus), saved(tmp_path, **state))
    rank_count.check(context(gpus), None)


def test_another_number_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Stop) as refused:
        rank_count.check(context(2), saved(tmp_path, num_processes=4))
    assert refused.value.reason is Reason.SPEC_REFUSED
    told = refused.value.detail
    assert "was trained on 4 GPUs, and the job has 2 GPUs" in told
    assert "Fix: pi0q retry a1b2c3d4e5f6 --file FILE" in told and "{gpus: 4}" in told


def test_another_number_that_its_user_wrote_is_told_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rank_count.check(context(1, continues="b2c3d4e5f6a1"), saved(tmp_path, num_processes=2))
    assert "it trained on 2 GPUs and goes on with one GPU" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", '{"num_processes": "x"}', '{"num_processes": -1}'])
def test_what_is_no_number_says_nothing(tmp_path: Path, text: str) -> None:
    checkpoint = saved(tmp_path)
    (tmp_path / rank_count.STATE).write_text(text)
    assert rank_count.of_checkpoint(checkpoint) is None
