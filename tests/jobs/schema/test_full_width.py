"""Signs of a Chinese keyboard in a job file: each is named with the line on which it stands."""

from __future__ import annotations

import pytest

from pi0q.jobs import spec
from pi0q.jobs.errors import SpecError
from pi0q.jobs.schema import full_width


def faults(text: str) -> list[tuple[int, str]]:
    with pytest.raises(SpecError) as caught:
        spec.parse(text, filename="job.yaml")
    return [(fault.line, str(fault)) for fault in caught.value.faults]


BROKEN = {
    "colon behind the first key": ("name：抓盒子\ntrain:\n  dataset: {repo_id: me/boxes}\n", 1, "full-width colon"),
    "colon behind a section": ("name: 抓盒子\ntrain：\n  dataset: {repo_id: me/boxes}\n", 2, "full-width colon"),
    "comma in a flow": ("train:\n  dataset: {repo_id: me/boxes，episodes: [0，1]}\n", 2, "full-width comma"),
    "colon alone": ("name：x\n", 1, "full-width colon"),
    "braces": ("train:\n  dataset: ｛repo_id: me/boxes｝\n  policy: {type: act}\n", 2, "full-width brace"),
    "indentation": ("train:\n　dataset: {repo_id: me/boxes}\n  policy: {type: act}\n", 2, "full-width space"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_sign_that_breaks_the_file_is_named_on_its_own_line(case: str) -> None:
    text, line, name = BROKEN[case]
    told = faults(text)
    assert [(at, name in said) for at, said in told if name in said] == [(line, True)], told


def test_a_sign_in_a_value_or_a_key_is_named_with_it() -> None:
    told = dict(
        faults("train:\n  dataset: {repo_id: me／boxes, root: /x}\n  policy: {type: act}\n  save_freq: “1000”\n")
    )
    assert "`／` is a full-width slash: write `/`" in told[2]
    assert "`“` is a curly quote" in told[4]
    (key,) = faults("train:\n  dataset: {repo_id: me/boxes}\n  policy: {type: act}\n　steps: 5\n")
    assert key[0] == 4
    assert "U+3000 is a full-width space: write a plain space" in key[1]


def test_text_may_hold_every_sign() -> None:
    text = "name: 抓盒子，第二版：测试\ntrain:\n  dataset: {repo_id: me/boxes}\n  policy: {type: act}\n"
    assert spec.parse(text, filename="job.yaml").name == "抓盒子，第二版：测试"
    wrong = faults(text + " steps: 5\n")
    assert "full-width" not in wrong[0][1]


def test_comments_and_quoted_text_are_never_blamed() -> None:
    text = "# 说明：第一行，注意\nname: x  # 名字：\ntrain:\n  wandb: {notes: '好：，'}\n policy: {type: act}\n"
    assert full_width.first_line(text, last=5) is None


def test_advice_is_empty_for_plain_text() -> None:
    assert full_width.advice("owner/name: x, 抓") == ""
