"""A wrong clock for one box: libfaketime shifts what its processes read of the time of day, nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: The library of the package `libfaketime`, below its own directory.
LIBRARY = Path("vendor/libfaketime/src/libfaketime.so.1")


def missing() -> str:
    """Why there are no wrong clocks here; empty if there are."""
    return "" if _library() else "the package libfaketime is not installed"


def shifted(by: str) -> dict[str, str]:
    """What a box's environment needs for its clock to be wrong by `by`: "+2h", "-2h", "+30s".

    The monotonic clocks go on as they are: they do on a machine whose time of day is set anew.
    """
    library = _library()
    assert library, missing()
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": by,
        "DONT_FAKE_MONOTONIC": "1",
    }


def _library() -> Path | None:
    found = importlib.util.find_spec("libfaketime")
    for place in (found.submodule_search_locations if found else None) or ():
        if (Path(place) / LIBRARY).exists():
            return Path(place) / LIBRARY
    return None
