"""What is said of a box without cards."""

from __future__ import annotations

import json

import pytest

from pi0q.ops.web.words import Words
from pi0q.ops.web.words_zh import mode_zh
from pi0q.queue import box_staging, box_text
from pi0q.queue.box_staging import Staging
from pi0q.queue.commands import boxes
from pi0q.queue.reading.views import box_view
from pi0q.queue.refusals import Drained, WithoutCards

BOX = {"name": "box-a", "status": "ready", "seen_seconds": "1", "gpus": "[]", "refused": "0"}
FETCHING = {"no_gpu_mode": True, "fetches": True, "busy": True, "job": "a1", "phase": "downloading 3.1/14.0 GB"}


@pytest.mark.parametrize(
    ("told", "english", "chinese"),
    [
        (FETCHING, "fetching for job a1 (downloading 3.1/14.0 GB)", "正在为任务 a1 下载（downloading 3.1/14.0 GB）"),
        ({"fetches": True, "busy": True}, "looking at what waiting jobs need", "正在查看排队任务需要什么"),
        ({"fetches": True}, "no job waits", "没有排队的任务"),
        ({"fetches": True, "ready_count": 1}, "the inputs of 1 waiting job are here", "1 个排队任务的输入已就绪"),
        (
            {"fetches": True, "ready_count": 3, "left": 2},
            "the inputs of 3 waiting jobs are here; those of 2 are not",
            "3 个排队任务的输入已就绪，2 个尚未就绪",
        ),
        ({"fetches": True, "left": 2}, "no inputs of the 2 waiting are here", "2 个尚未就绪"),
        ({"fetches": False}, "", ""),
    ],
)
def test_how_far_it_is(told: dict[str, object], english: str, chinese: str) -> None:
    read = box_staging.read({"staging": json.dumps({"no_gpu_mode": True, **told})})
    assert read is not None
    assert (read.progress, Words("en").staging(read), Words("zh").staging(read)) == (english, english, chinese)


def test_a_box_with_cards_or_of_an_older_version_says_nothing() -> None:
    assert box_staging.read({"staging": ""}) is None and box_staging.read({}) is None


def test_the_line_of_boxes_and_the_details() -> None:
    told = {**FETCHING, "problems": {"b2": "disk: needs 90.0 GiB, 40.0 GiB free on /data"}}
    caches = [{"name": "lerobot/pi0", "mib": 13_352}, {"name": "datasets/you/grab_box", "mib": 700}]
    box = {**BOX, "staging": json.dumps(told), "caches": json.dumps(caches)}
    mode = "no-GPU mode: fetches inputs, claims nothing"
    assert boxes.cells(box, {})[-1] == f"{mode} · fetching for job a1 (downloading 3.1/14.0 GB)"
    assert boxes.cells({**box, "status": "stopped"}, {(1, 90 * 1024): 3})[-1] == mode
    lines = list(box_text.details(box, []))
    assert f"  mode       {mode}" in lines
    assert "  not for    b2: disk: needs 90.0 GiB, 40.0 GiB free on /data" in lines
    assert [line.split() for line in lines if "GiB  lerobot" in line] == [["cache", "13.0", "GiB", "lerobot/pi0"]]
    view = box_view(box, [], 60.0, 0)
    assert isinstance(view.staging, Staging) and view.staging.job == "a1"
    assert [(one.name, one.mib) for one in view.caches] == [("lerobot/pi0", 13_352), ("datasets/you/grab_box", 700)]


@pytest.mark.parametrize(("job", "inputs"), [("a1", "coming"), ("b2", "here"), ("c3", "")])
def test_why_says_how_far_it_is_with_the_inputs_of_a_job(job: str, inputs: str) -> None:
    box = {**BOX, "staging": json.dumps({**FETCHING, "ready": ["b2"]})}
    found = box_staging.about(WithoutCards(), box, job)
    assert found == WithoutCards(inputs=inputs)
    assert mode_zh(WithoutCards(inputs=inputs)).startswith("无卡模式：只下载输入")
    assert box_staging.about(Drained(), box, job) == Drained()
