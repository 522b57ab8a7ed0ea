"""Tables as plain text, for pipes and for thousands of rows: rich needs a quarter of a millisecond a row. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

GAP = "  "


def lines(header: Sequence[str], rows: Iterable[Sequence[str]], *, width: int | None = None) -> Iterator[str]:
    """Yield the header and a line a row, columns aligned; `width`, in cells of a terminal, cuts the lines."""
    table = [header, *rows]
    widths = [max(map(cells, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = GAP.join(text + " " * (size - cells(text)) for text, size in zip(row, widths, strict=True)).rstrip()
        yield line if width is None else cut(line, width)


def wrapped(line: str, width: int | None) -> Iterator[str]:
    """Yield a line in parts of at most `width` cells, broken between words; the parts behind the first are indented.

    `width` None: as it is. A word that is wider than that stays whole: it may be a path or a command to copy.
    """
    if width is None or cells(line) <= width:
        yield line
        return
    indent = " " * (len(line) - len(line.lstrip()))
    part, deeper = indent, f"{indent}    "
    for word in line.strip().split(" "):
        if part.strip() and cells(part) + 1 + cells(word) > width:
            yield part
            part = deeper
        part = f"{part} {word}" if part.strip() else f"{part}{word}"
    yield part


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def cut(text: str, width: int) -> str:
    """Return a text that fits into `width` cells, with `…` where something is left out."""
    if cells(text) <= width:
        return text
    left, kept = width - 1, ""
    for one in text:
        left -= _cells(one)
        if left < 0:
            break
        kept += one
    return kept + "…"


def _cells(one: str) -> int:
    return 0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF")
