"""The page's colours: what is written is readable on what it is written on, in both schemes (WCAG 2.2, 1.4.3). Pure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pi0q.ops.web import words

CSS = (Path(words.__file__).parent / "static" / "page.css").read_text(encoding="utf-8")
TEXTS = ("text", "quiet", "faint", "blue", "red", "amber", "green")
#: Each colour of text with the grounds that it stands on.
PAIRS = [
    *((text, ground) for text in TEXTS for ground in ("panel", "page")),
    ("quiet", "soft-grey"), ("blue", "soft-blue"), ("green", "soft-green"), ("red", "soft-red"),
    ("violet", "soft-violet"), ("amber", "soft-amber"), ("text", "soft-red"), ("text", "soft-amber"),
]  # fmt: skip
LEAST = 4.5


def schemes() -> dict[str, dict[str, str]]:
    """Return the colours of both schemes by name."""
    light, dark = CSS.split("@media (prefers-color-scheme: dark)")[:2]
    found = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part.split("\n}\n")[0])) for part in (light, dark)]
    return {"light": found[0], "dark": {**found[0], **found[1]}}


def contrast(one: str, other: str) -> float:
    """Return the ratio of the luminances of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(scheme: str) -> None:
    colours = schemes()[scheme]
    faint = {
        f"{text} on {ground}": round(ratio, 2)
        for text, ground in PAIRS
        if (ratio := contrast(colours[text], colours[ground])) < LEAST
    }
    assert faint == {}
