"""Make text safe for a terminal: no control character of a record, a log or a file reaches the screen."""

from __future__ import annotations

import re
from typing import Any

#: C0 and C1 controls (among them ESC and the 8-bit CSI and OSC), DEL, the marks and overrides of bidirectional text,
#: the line and paragraph separators, and halves of surrogate pairs. Newline and tab are looked at apart.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNSAFE_OR_BREAK = re.compile(_UNSAFE.pattern + "|[\t\n]")


def printable(text: str, *, lines: bool = True) -> str:
    """Return the text with each control character written as an escape (`\\x1b`, `\\u202e`).

    `lines`: newlines and tabs stay, as in a log or a message; otherwise they are escaped too, as in a name.
    """
    if text.isprintable():
        return text
    return (_UNSAFE if lines else _UNSAFE_OR_BREAK).sub(_escape, text)


def printable_json(value: Any) -> Any:
    """Return a value of JSON with every text in it, keys included, made printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_json(item) for item in value]
    if isinstance(value, dict):
        return {printable(str(key)): printable_json(item) for key, item in value.items()}
    return value


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
