"""JSON as LeRobot reads it, and no more of it than a person would write. Raises Unreadable for all else."""

from __future__ import annotations

import json
from typing import Any

#: Larger files are refused: LeRobot's own are some kilobytes.
MOST_BYTES = 4 * 1024 * 1024


class Unreadable(ValueError):
    """The file can't be judged; the text says why."""


def parse_object(data: bytes) -> dict[str, Any]:
    """The object in a JSON file; of a key that stands twice the last counts, as in `json.load`."""
    if len(data) > MOST_BYTES:
        raise Unreadable(f"has {len(data)} bytes, more than the {MOST_BYTES} that are looked at")
    try:
        # `json.load` of an open file takes what the locale's encoding gives it; UTF-8 is the one that all agree on.
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is no JSON that can be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise Unreadable("is no JSON object")
    return value
