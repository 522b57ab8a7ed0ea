"""Measure which repositories lie complete in the Hugging Face cache."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.queue.settings import Settings
from pi0q.workers.host import probe
from pi0q.workers.host.files import MIB
from pi0q.workers.hub import snapshots
from pi0q.workers.hub.requirements import Fetch


def size_bytes(fetch: Fetch, hf_home: Path, sha: str | None) -> int:
    """Return the size of a repository that is complete in the cache, else 0.

    At commit `sha`; without one, at the commit that its branch names in the cache.
    """
    folder = fetch.folder(hf_home)
    with contextlib.suppress(OSError, ValueError):
        for commit in [sha] if sha else [snapshots.read_ref(folder, name) for name in snapshots.names(fetch)]:
            if commit and snapshots.is_complete(fetch, hf_home, commit):
                return snapshots.size_bytes(fetch, hf_home, commit)
    return 0


def sizes_bytes(wanted: Iterable[Fetch], settings: Settings, pins: Mapping[str, str]) -> dict[str, int]:
    """Return the size of each of these that is complete in the cache, by pin."""
    return {fetch.pin: size_bytes(fetch, settings.hf_home, pins.get(fetch.pin)) for fetch in wanted}


def fetched_mib(wanted: Iterable[Fetch], before: Mapping[str, int], settings: Settings, pins: Mapping[str, str]) -> int:
    """Return what came onto the data disk since `before` (of `sizes_bytes`), MiB; 0 where the cache is on another."""
    if probe.disk(settings.hf_home).resource != probe.disk(settings.home).resource:
        return 0
    return max(0, sum(sizes_bytes(wanted, settings, pins).values()) - sum(before.values())) // MIB


#: Repositories that a box announces with their sizes, the largest first.
MOST_LISTED = 20
#: Kinds of repositories, by how a cache's folders begin, and how their names begin among a job's pins.
KINDS = {"models--": "", "datasets--": "datasets/"}


def name_of(folder: Path) -> str:
    """Return the name of the repository that a folder of the cache holds, as a job's pins have it; "" for none."""
    for start, prefix in KINDS.items():
        if folder.name.startswith(start):
            return prefix + folder.name.removeprefix(start).replace("--", "/", 1)
    return ""


@dataclass
class CacheList:
    """The repositories that lie complete in the cache, by size; reads what a download wrote down once."""

    hf_home: Path
    #: Bytes of what each finished download put there, by its mark and the time at which that was written.
    _known: dict[tuple[Path, int], int] = field(default_factory=dict, init=False)

    def largest(self) -> list[dict[str, Any]]:
        """Return name and MiB of the largest. Of several commits or parts of a repository the largest counts."""
        known, sizes = dict[tuple[Path, int], int](), dict[str, int]()
        for mark in (self.hf_home / "hub").glob("*--*--*/.pi0q-whole-*"):
            # A mark may go at any moment, with its cache.
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                key = (mark, mark.stat().st_mtime_ns)
                known[key] = self._known[key] if key in self._known else sum(json.loads(mark.read_bytes()).values())
                if name := name_of(mark.parent):
                    sizes[name] = max(sizes.get(name, 0), known[key])
        self._known = known
        ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        return [{"name": name, "mib": -(-size // MIB)} for name, size in ordered[:MOST_LISTED]]
