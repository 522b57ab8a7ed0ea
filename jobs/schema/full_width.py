"""Signs that a Chinese or Japanese keyboard gives in place of those that YAML and shells know."""

from __future__ import annotations

import re

#: The sign, what it is called, and what is meant.
SIGNS: dict[str, tuple[str, str]] = {
    "\uff1a": ("full-width colon", "`: ` (a colon and a space)"),
    "\uff0c": ("full-width comma", "`,`"),
    "\u3001": ("ideographic comma", "`,`"),
    "\u3000": ("full-width space", "a plain space"),
    "\u201c": ("curly quote", '`"`'),
    "\u201d": ("curly quote", '`"`'),
    "\u2018": ("curly quote", "`'`"),
    "\u2019": ("curly quote", "`'`"),
    "\uff02": ("full-width quote", '`"`'),
    "\uff07": ("full-width quote", "`'`"),
    "\uff1d": ("full-width equals sign", "`=`"),
    "\uff0f": ("full-width slash", "`/`"),
    "\uff0d": ("full-width hyphen", "`-`"),
    "\uff0e": ("full-width full stop", "`.`"),
    "\uff3f": ("full-width underscore", "`_`"),
    "\uff03": ("full-width number sign", "`#`"),
    "\uff5b": ("full-width brace", "`{`"),
    "\uff5d": ("full-width brace", "`}`"),
    "\uff3b": ("full-width bracket", "`[`"),
    "\uff3d": ("full-width bracket", "`]`"),
    "\u3010": ("full-width bracket", "`[`"),
    "\u3011": ("full-width bracket", "`]`"),
    "\u00a0": ("no-break space", "a plain space"),
}


def advice(text: str) -> str:
    """Return the name of the first such sign and what to write in its place; "" if the text holds none."""
    sign = next((char for char in text if char in SIGNS), "")
    if not sign:
        return ""
    name, meant = SIGNS[sign]
    shown = f"U+{ord(sign):04X}" if sign.isspace() else f"`{sign}`"
    return f"{shown} is a {name}: write {meant}"


#: Where such a sign is no part of a text: in place of the colon behind a key, between the brackets of a list, in the
#: indentation, and around a value.
_MISPLACED = re.compile(
    r"^[^:]*(?P<colon>[\uff1a])|[\[{][^\]}]*?(?P<inside>[\uff1a\uff0c\u3001])|^[ \t]*(?P<indent>[\u3000\u00a0])"
    r"|[:,\[{-][ \t\u3000]*(?P<value>[\u201c\u201d\u2018\u2019\uff02\uff07\uff5b\uff3b\u3010])"
)


def first_line(text: str, *, last: int) -> tuple[int, str] | None:
    """Return the first line, from 1 up to `last`, on which YAML takes such a sign for text, and what to write."""
    for number, line in enumerate(text.splitlines()[:last], start=1):
        if found := _MISPLACED.search(_code(line)):
            return number, advice(next(sign for sign in found.groups() if sign))
    return None


def _code(line: str) -> str:
    """Return a line of YAML without its comment and without what stands between plain quotes."""
    kept, quote, before = list[str](), "", " "
    for char in line:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'" and not before.isalnum():
            quote = char
        elif char == "#" and before.isspace():
            break
        else:
            kept.append(char)
        before = char
    return "".join(kept)
