"""Caches of other tools that fill a box's system disk, each with the tool's own command that empties it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from pi0q.workers.host.files import size_mib

#: Path below the user's home -> command. The tools download again what they need.
CACHES: Mapping[str, str] = {
    ".cache/pip": "pip cache purge",
    "miniconda3/pkgs": "conda clean --all -y",
    "anaconda3/pkgs": "conda clean --all -y",
    "miniforge3/pkgs": "conda clean --all -y",
    ".cache/uv": "uv cache clean",
}
#: MiB from which on a cache is reported.
WORTH_MIB = 200
#: Seconds for which sizes are reused; conda's cache has a hundred thousand files.
FRESH_SECONDS = 600.0

_seen: dict[Path, tuple[float, list[tuple[str, int, str]]]] = {}


def found(user_home: Path, system: Path = Path("/")) -> list[tuple[str, int, str]]:
    """Return the large caches on the disk of `system`: path, MiB and command, the largest first."""
    at, known = _seen.get(user_home, (-FRESH_SECONDS, []))
    if time.monotonic() - at >= FRESH_SECONDS:
        known = sorted(_look(user_home, system), key=lambda one: -one[1])
        _seen[user_home] = time.monotonic(), known
    return known


def _look(user_home: Path, system: Path) -> list[tuple[str, int, str]]:
    caches = []
    for name, command in CACHES.items():
        path = user_home / name
        try:
            on_system_disk = path.is_dir() and not path.is_symlink() and path.stat().st_dev == system.stat().st_dev
        except OSError:
            continue
        if on_system_disk and (mib := size_mib(path)) >= WORTH_MIB:
            caches.append((f"~/{name}", mib, command))
    return caches


def home() -> Path:
    """Return the home directory of this process's user."""
    return Path(os.environ.get("HOME") or Path.home())
