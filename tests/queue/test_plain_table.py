from __future__ import annotations

import pytest

from pi0q.queue import plain_table


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    rows = [("a1", "抓盒子", "x"), ("b2", "cafe\u0301", ""), ("c3", "plain", "y")]
    assert list(plain_table.lines(("ID", "NAME", "NOTE"), rows)) == [
        "ID  NAME    NOTE",
        "a1  抓盒子  x",
        "b2  cafe\u0301",
        "c3  plain   y",
    ]


def test_nothing_is_cut_in_a_pipe() -> None:
    assert list(plain_table.lines(("A",), [("x" * 3000,)]))[1] == "x" * 3000


@pytest.mark.parametrize(
    ("text", "width", "cut"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("抓盒子", 5, "抓盒…"), ("抓盒子", 4, "抓…")]
)
def test_a_line_is_cut_to_the_terminal(text: str, width: int, cut: str) -> None:
    assert plain_table.cut(text, width) == cut
    assert plain_table.cells(cut) <= width


def test_wrapped_breaks_between_words_and_indents_what_follows() -> None:
    line = "  disk: needs 120 GiB, 40 GiB free on /root/autodl-tmp"
    parts = list(plain_table.wrapped(line, 30))
    assert parts == ["  disk: needs 120 GiB, 40 GiB", "      free on /root/autodl-tmp"]
    assert list(plain_table.wrapped(line, None)) == list(plain_table.wrapped(line, 200)) == [line]


def test_wrapped_keeps_a_word_whole_and_counts_wide_characters() -> None:
    path = "/root/" + "x" * 40
    assert list(plain_table.wrapped(f"  see {path}", 20)) == ["  see", f"      {path}"]
    assert list(plain_table.wrapped("抓盒子 抓盒子", 12)) == ["抓盒子", "    抓盒子"]
