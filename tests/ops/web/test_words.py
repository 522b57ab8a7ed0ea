from __future__ import annotations

import re
from pathlib import Path

import pytest

from pi0q.jobs.state import State
from pi0q.ops.web import words
from pi0q.ops.web.actions import ACTIONS, SAID
from pi0q.ops.web.words_zh import CHINESE
from pi0q.queue.reading.values import BoxStatus
from pi0q.queue.refusals import TooLittleVram
from pi0q.queue.wait_notes import Wait, WaitKind

WEB = Path(words.__file__).parent
CALL = re.compile(r"""_\(\s*(?:"([^"]+)"|'([^']+)')\s*\)""")


def used() -> set[str]:
    """Every text that templates and modules translate."""
    files = [*WEB.glob("templates/*.html"), *WEB.glob("*.py")]
    found = {match[1] or match[2] for path in files for match in CALL.finditer(path.read_text(encoding="utf-8"))}
    found |= {text for one in ACTIONS.values() for text in (one.button, one.question, one.effect, one.answer)}
    return found | {*SAID.values()} | {state.label for state in State} | {status.value for status in BoxStatus}


def test_every_text_of_the_page_has_its_chinese() -> None:
    texts = used()
    assert len(texts) > 100
    assert texts - {*CHINESE} == set()


def test_chinese_keeps_the_places_of_values() -> None:
    assert {text for text, chinese in CHINESE.items() if text.count("{}") != chinese.count("{}")} == set()


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-US,en;q=0.9,zh;q=0.8", "en"),
        (None, "fr, zh;q=0.1", "zh"),
        (None, "zh;q=0", "en"),
        (None, "", "en"),
        (None, ";;;,q=,=" * 30, "en"),
        ("en", "zh", "en"),
        ("../zh", "zh", "zh"),
    ],
)
def test_language_is_the_chosen_one_else_the_browsers(cookie: str | None, accepted: str, language: str) -> None:
    assert words.choose(cookie, accepted) == language


def test_reasons_are_told_in_both_languages() -> None:
    refusal = TooLittleVram(needed_mib=92160, gpus=1, fitting=0, free_mib=4096, total_mib=81920)
    wait = Wait(kind=WaitKind.REFUSED, boxes=("box-a", "box-b"), refusal=refusal)
    assert words.Words("en").wait(wait) == str(wait)
    assert words.Words("zh").wait(wait).startswith("box-a：显存：需要 1 张有 90.0 GiB 的卡")


def test_numbers_that_are_none_are_said() -> None:
    assert [words.number(value) for value in (float("nan"), float("inf"), None, 0.03125)] == ["NaN", "∞", "", "0.03125"]


def test_short_cuts_and_escapes() -> None:
    assert words.short("x" * 10_000, 20) == "x" * 19 + "…"
    assert words.short("a\u202eb\x1b", 20) == "a\\u202eb\\x1b"


def test_a_job_outside_the_queue_and_one_with_a_start_are_told_in_chinese() -> None:
    chinese = words.Words("zh")
    turn = Wait(kind=WaitKind.TURN, place=1, boxes=("box-a",), start_seconds=3900.0)
    assert chinese.wait(turn) == "前面还有 1 个，约 1 小时 5 分后开始，等待 box-a"
    after = Wait(kind=WaitKind.AFTER, held="starts after train (3f2a)", jobs=("3f2a", "4b1c", "5d0e"))
    assert chinese.wait(after) == "等待任务 3f2a, 4b1c 等 3 个"
    assert chinese.wait(Wait(kind=WaitKind.HELD, held="by lin@lab")) == "已暂缓 by lin@lab"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada Generation"),
    ],
)
def test_a_card_is_named_without_its_memory(name: str, shown: str) -> None:
    assert words.card_name(name) == shown
