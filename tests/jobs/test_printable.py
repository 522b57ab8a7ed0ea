"""No control character reaches a terminal."""

from __future__ import annotations

import pytest

from pi0q.jobs.errors import SpecError
from pi0q.jobs.printable import printable, printable_json
from pi0q.jobs.record import from_hash
from pi0q.jobs.spec import parse

#: Escape sequences of attacks: OSC 52 (clipboard), window title, 8-bit CSI and OSC, carriage return, bidi override.
HOSTILE = ["\x1b]52;c;cm0gLXJm\x07", "\x1b]0;title\x07", "\x9b2J", "\x9d0;t\x9c", "a\rb", "a\x08b", "\x7f",
           "\u202egpj.exe",            "\u2066x\u2069", "\u2028", "\x00", "\ud800"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_printable_escapes_every_control_character(text: str) -> None:
    shown = printable(f"抓盒子 {text} é")
    assert shown.isprintable()
    assert shown.startswith("抓盒子 ") and shown.endswith(" é")


def test_printable_keeps_lines_of_a_log_but_not_of_a_name() -> None:
    assert printable("one\n\ttwo") == "one\n\ttwo"
    assert printable("one\n\ttwo", lines=False) == "one\\x0a\\x09two"


def test_printable_leaves_ordinary_text_as_it_is() -> None:
    text = "loss 0.31 → 12 °C 进度 80%"
    assert printable(text) is text


def test_printable_json_cleans_keys_and_nested_texts() -> None:
    assert printable_json({"\x1b[2J": ["a\x1b", {"b": "\x9b"}], "n": 1}) == {
        "\\x1b[2J": ["a\\x1b", {"b": "\\x9b"}],
        "n": 1,
    }


@pytest.mark.parametrize("field", ["name", "detail", "submitter", "phase"])
def test_record_from_redis_is_printable(field: str) -> None:
    raw = {"id": "a1b2c3d4e5f6", "name": "x", "state": "queued", "priority": "normal", "submitter": "ada", "spec": "{}",
           "needs": "{}", "created_ms": "1", "updated_ms": "1"}  # fmt: skip
    record = from_hash({**raw, field: "a\x1b]0;evil\x07b"})
    assert getattr(record, field) == "a\\x1b]0;evil\\x07b"


def test_history_from_redis_is_printable() -> None:
    raw = {"id": "a1b2c3d4e5f6", "name": "x", "state": "queued", "priority": "normal", "submitter": "ada", "spec": "{}",
           "needs": "{}", "created_ms": "1", "updated_ms": "1"}  # fmt: skip
    (event,) = from_hash(raw, ['{"at_ms": 1, "state": "queued", "epoch": 0, "text": "\\u001b[2J"}']).history
    assert event.text == "\\x1b[2J"


def test_spec_error_prints_no_control_character_and_fakes_no_line_of_a_key() -> None:
    text = 'train: {dataset: {repo_id: a/b}, policy: {type: act}, "x\\e]0;t\\a\\nwrong.yaml:9: all is well": 1}\n'
    with pytest.raises(SpecError) as told:
        parse(text, filename="wrong.yaml")
    shown = str(told.value)
    assert "\x1b" not in shown and "\x07" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("wrong.yaml:9")]
