"""Measure which repositories lie complete in the Hugging Face cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

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
