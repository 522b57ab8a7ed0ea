"""Reads the type of a flag as the tables spell it (lerobot_tables.py) into what reads its values."""

from __future__ import annotations

import re
from functools import cache

from pi0q.jobs.schema.compound_types import Anything, Either, Record
from pi0q.jobs.schema.value_types import Bool, Choice, Float, Int, ListOf, MapOf, ValueType, Word

#: Bounds of a number that nobody has bounded by hand: no setting of a training is beyond.
_LIMIT = 1_000_000_000_000
_WORD = re.compile(r"[a-z]+")


@cache
def read(text: str) -> ValueType:
    """Return what reads values of this type. Raises ValueError for a spelling that the tables don't use."""
    options = _split(text, " | ")
    kinds = [_one(option) for option in options if option != "null"]
    # A whole number first: `float | int` would make 1000.0 of 1000.
    kinds.sort(key=lambda kind: not isinstance(kind, Int))
    kind = kinds[0] if len(kinds) == 1 else Either(*kinds)
    kind.nullable = "null" in options
    return kind


def _one(text: str) -> ValueType:
    name = _WORD.match(text)
    inner = text[name.end() + 1 : -1] if name else ""
    match name and name[0]:
        case "bool":
            return Bool()
        case "int":
            return Int(low=-_LIMIT, high=_LIMIT)
        case "float":
            return Float(low=-_LIMIT, high=_LIMIT)
        case "str" | "path":
            return Word()
        case "any":
            return Anything()
        case "enum":
            return Choice(*inner.split("|"))
        case "list":
            return ListOf(read(inner))
        case "tuple":
            items = _split(inner, ", ")
            return ListOf(read(items[0]), size=len(items))
        case "dict":
            return MapOf(read(_split(inner, ", ")[1]))
        case "record":
            return Record(*_fields(inner))
    raise ValueError(f"no type of a flag is spelt {text!r}")


def _fields(text: str) -> tuple[dict[str, ValueType], frozenset[str]]:
    pairs = [pair.partition(": ")[::2] for pair in _split(text, ", ")]
    kinds = {name.removesuffix("?"): read(type_) for name, type_ in pairs}
    return kinds, frozenset(name for name, _ in pairs if not name.endswith("?"))


def _split(text: str, at: str) -> list[str]:
    """Split where the separator stands in no bracket."""
    parts, depth, start = list[str](), 0, 0
    for index, char in enumerate(text):
        depth += (char in "[(") - (char in "])")
        if depth == 0 and text.startswith(at, index):
            parts.append(text[start:index])
            start = index + len(at)
    return [*parts, text[start:]]
