"""Caches of other tools that fill a box's system disk, and the command that empties each: the tool's own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from pi0q.workers.shelf import size_mib

#: Below the user's home. What these fetch again when it is needed, nobody misses.
CACHES: Mapping[str, str] = {
    ".cache/pip": "pip cache purge",
    "miniconda3/pkgs": "conda clean --all -y",
    "anaconda3/pkgs": "conda clean --all -y",
    "miniforge3/pkgs": "conda clean --all -y",
    ".cache/uv": "uv cache clean",
}
#: MiB from which on one of them is worth a word.
WORTH_MIB = 200
#: Seconds for which a look at them is good; conda's has a hundred thousand files.
FRESH_SECONDS = 600.0

_seen: dict[Path, tuple[float, list[tuple[str, int, str]]]] = {}


def found(user_home: Path, system: Path = Path("/")) -> list[tuple[str, int, str]]:
    """Those on the disk of `system` that are worth a word: path, MiB and command; the biggest first."""
    at, known = _seen.get(user_home, (-FRESH_SECONDS, []))
    if time.monotonic() - at >= FRESH_SECONDS:
        known = sorted(_look(user_home, system), key=lambda one: -one[1])
        _seen[user_home] = time.monotonic(), known
    return known


def _look(user_home: Path, system: Path) -> list[tuple[str, int, str]]:
    there = []
    for name, command in CACHES.items():
        path = user_home / name
        try:
            here = path.is_dir() and not path.is_symlink() and path.stat().st_dev == system.stat().st_dev
        except OSError:
            continue
        if here and (mib := size_mib(path)) >= WORTH_MIB:
            there.append((f"~/{name}", mib, command))
    return there


def home() -> Path:
    """Of the user that this process is."""
    return Path(os.environ.get("HOME") or Path.home())


def offer() -> str:
    """What a box with too little room on its system disk can do about it, in words; "" if nothing of this is there."""
    offers = [f"`{command}` frees up to {mib / 1024:.1f} GiB" for _, mib, command in found(home())]
    return "; ".join(offers)
