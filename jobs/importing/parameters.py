"""What a shell makes of a value's text: `${NAME##*/}`, `${NAME/a/b}`, `$'\\t'`."""

from __future__ import annotations

import re
from fnmatch import translate

#: Longest value that a pattern is taken off, and longest pattern, in characters.
LONGEST_CHANGED, LONGEST_PATTERN = 1000, 60
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}
_ANSI = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|([0-7]{1,3})|(.))", re.DOTALL)


def ansi(text: str) -> str:
    """The text of `$'…'`."""
    return _ANSI.sub(_ansi_character, text)


def unescaped(source: bytes) -> str:
    """The text of a piece of a string in double quotes."""
    return re.sub(r'\\(?:\n|(["$`\\]))', lambda found: found[1] or "", source.decode())


def _ansi_character(found: re.Match[str]) -> str:
    hexadecimal, unicode, octal, other = found.groups()
    if other is not None:
        return _ESCAPES.get(other, other if other in "\\'\"?" else f"\\{other}")
    return chr(int(octal, 8) if octal else int(hexadecimal or unicode, 16))


def changed(text: str, rest: str) -> str | None:
    """A value changed as the operator at the start of `rest` says; None where that isn't worked out."""
    if rest in (",,", "^^"):
        return text.lower() if rest == ",," else text.upper()
    if rest in (",", "^"):
        return (text[:1].lower() if rest == "," else text[:1].upper()) + text[1:]
    if slice_ := re.fullmatch(r":\s*([0-9]+)(?::([0-9]+))?", rest):
        start, size = int(slice_[1]), slice_[2]
        return text[start : start + int(size)] if size else text[start:]
    if set(rest) & set("$`\"'[]()") or len(text) > LONGEST_CHANGED or len(rest) > LONGEST_PATTERN:
        return None
    if rest.startswith("/"):
        return _replaced(text, rest)
    for sign in ("##", "#", "%%", "%"):
        if rest.startswith(sign):
            return _stripped(text, sign, _pattern(rest[len(sign) :]))
    return None


def _pattern(glob: str) -> str:
    return translate(re.sub(r"\\(.)", r"\1", glob)).removesuffix(r"\Z").removesuffix(r"\z")


def _stripped(text: str, sign: str, pattern: str) -> str:
    ends = range(len(text) + 1)
    if sign[0] == "#":
        fits = [end for end in ends if re.fullmatch(pattern, text[:end])]
        return text[(fits[-1] if sign == "##" else fits[0]) :] if fits else text
    fits = [start for start in ends if re.fullmatch(pattern, text[start:])]
    return text[: (fits[0] if sign == "%%" else fits[-1])] if fits else text


def _replaced(text: str, rest: str) -> str | None:
    every = rest.startswith("//")
    parts = re.split(r"(?<!\\)/", rest[2 if every else 1 :], maxsplit=1)
    wanted, put = (re.sub(r"\\(.)", r"\1", part) for part in (*parts, "")[:2])
    if not wanted or set(wanted) & set("*?") or wanted[0] in "#%" or "&" in put:
        return None
    return text.replace(wanted, put, -1 if every else 1)
