"""A box without cards on the web page: its mode, how far it is with inputs, and what its cache holds."""

from __future__ import annotations

import json

import pytest

from pi0q.ops.web.screens import Frame, Screens
from pi0q.queue.job_list import Counts
from pi0q.queue.reading.values import FleetView
from pi0q.queue.reading.views import box_view
from pi0q.queue.refusals import WithoutCards

STAGING = {"no_gpu_mode": True, "fetches": True, "busy": True, "job": "a1", "phase": "downloading 3.1/14.0 GB"}
CACHES = [{"name": "lerobot/pi0<b>", "mib": 13_352}, {"name": "datasets/you/grab_box", "mib": 12}]
BOX = {
    "name": "box-a",
    "status": "ready",
    "seen_seconds": "1",
    "gpus": "[]",
    "blocked": json.dumps(WithoutCards().to_json()),
    "staging": json.dumps(STAGING),
    "caches": json.dumps(CACHES),
}


def page(language: str) -> str:
    fleet = FleetView(
        now_ms=0,
        boxes=(box_view(BOX, [], 60.0, 0),),
        running=(),
        queue=(),
        held=(),
        ended=(),
        broken=(),
        counts=Counts(live=0, ended=0, active=0, waiting=0, queued=0),
    )
    return Screens().boxes(Frame(language=language, here="/boxes", back="/boxes"), fleet)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ("no-GPU mode: fetches inputs, claims nothing", "fetching for job a1 (downloading 3.1/14.0 GB)")),
        ("zh", ("无卡模式：只下载输入，不认领任务", "正在为任务 a1 下载")),
    ],
)
def test_the_boxes_page_says_what_it_does_and_holds(language: str, said: tuple[str, ...]) -> None:
    shown = page(language)
    for text in (*said, "lerobot/pi0&lt;b&gt;", "13 GiB", "datasets/you/grab_box", "12 MiB"):
        assert text in shown
