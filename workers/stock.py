"""What of a job's disk plan lies on this box already, so that a claim does not ask for it again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs import disk
from pi0q.jobs.checkpoint import MANIFEST, step_of
from pi0q.jobs.disk import MIB, Plan
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers import probe, shelf
from pi0q.workers.probe import Host
from pi0q.workers.run import fetches, snapshots, takeover
from pi0q.workers.run.directory import RunDirectory
from pi0q.workers.run.fetches import Fetch

#: Seconds for which a look at a repository or at the compiled kernels is good: many jobs that wait have the same.
FRESH_SECONDS = 5.0
#: Jobs whose plan a box tells.
SHOWN = 10
#: Looks that are remembered.
REMEMBERED = 2000


@dataclass(frozen=True, kw_only=True)
class Want:
    """What a job still needs of this box's disks, MiB."""

    #: Of the data disk.
    disk_mib: int
    #: Of the disk that the Hub's cache is on, where that is another one.
    hub_mib: int = 0


@dataclass
class Stock:
    """Of one box."""

    settings: Settings
    box: str
    #: Plans of the jobs that were looked at last, for `pi0q why`: job -> `Plan.to_json`.
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)
    _seen: dict[object, tuple[float, int]] = field(default_factory=dict)

    def want(self, job: Record, spec: Spec | str, host: Host) -> Want:
        """What the job still needs here; all of it where its spec can't be read."""
        if isinstance(spec, str):
            return Want(disk_mib=job.needs.get("disk_mib", 0))
        plan = self.plan(job, spec)
        if job.id in self.shown or len(self.shown) < SHOWN:
            self.shown[job.id] = plan.to_json()
        there = sum(item.lacks_mib for item in plan.items if item.place == disk.HUB)
        if host.hub is None:
            return Want(disk_mib=plan.lacks_mib)
        return Want(disk_mib=max(0, plan.lacks_mib - there), hub_mib=there)

    def plan(self, job: Record, spec: Spec) -> Plan:
        """What the job takes, with what of it is here."""
        own = RunDirectory(self.settings.runs / job.id)
        saved = verified(takeover.left(own, job.continues) or own)
        sizes, here = disk.told(job.preflight), {"checkpoints": sum(map(shelf.size_mib, saved))}
        for fetch in fetches.wanted(spec, resuming=False):
            if found := self._laid(fetch, job.pins.get(fetch.pin)):
                sizes[fetch.pin] = found
                here[fetch.kind] = -(-found // MIB)
        if job.box == self.box and job.started_ms is not None:
            here["kernels"] = self._kernels()
        known = job.checkpoint.bytes if job.checkpoint else int(job.disk_plan.get("checkpoint_mib") or 0) * MIB
        free = job.disk_plan.get("free")
        return disk.plan(
            spec,
            sizes=sizes,
            saved_bytes=known or None,
            pinned=len(job.kept_steps),
            resuming=bool(saved),
            here=here,
            at_least_mib=int(free.get(self.box) or 0) if isinstance(free, Mapping) else 0,
        )

    def _laid(self, fetch: Fetch, sha: str | None) -> int:
        """Bytes of a repository that lies here whole; 0 if it does not."""
        return self._look((fetch, sha), lambda: laid_bytes(fetch, self.settings.hf_home, sha))

    def _kernels(self) -> int:
        places = shelf.places(self.settings)
        return self._look("kernels", lambda: sum(shelf.size_mib(places[name][1]) for name in ("inductor", "triton")))

    def _look(self, what: object, look: Callable[[], int]) -> int:
        at, found = self._seen.get(what, (-FRESH_SECONDS, 0))
        if time.monotonic() - at >= FRESH_SECONDS:
            if len(self._seen) >= REMEMBERED:
                self._seen.clear()
            at, found = time.monotonic(), look()
            self._seen[what] = at, found
        return found


def verified(directory: RunDirectory) -> list[Path]:
    """Its checkpoints here that are vouched for; what was moved aside or never finished is none, and goes."""
    with contextlib.suppress(OSError):
        return [path for path in directory.checkpoints.iterdir() if step_of(path.name) and (path / MANIFEST).exists()]
    return []


def laid_bytes(fetch: Fetch, hf_home: Path, sha: str | None) -> int:
    """Bytes of a repository that lies whole in the cache: at that commit, or at the one that its branch names here."""
    folder = fetch.folder(hf_home)
    with contextlib.suppress(OSError, ValueError):
        for commit in [sha] if sha else [snapshots.read_ref(folder, name) for name in snapshots.names(fetch)]:
            if commit and snapshots.was_laid(fetch, hf_home, commit):
                return snapshots.laid_bytes(fetch, hf_home, commit)
    return 0


def fetched_mib(wanted: Iterable[Fetch], before: Mapping[str, int], settings: Settings, pins: Mapping[str, str]) -> int:
    """What came onto the data disk since `before` (`laid`), MiB; nothing where the Hub's cache is on another one."""
    if probe.disk(settings.hf_home).resource != probe.disk(settings.home).resource:
        return 0
    return max(0, sum(laid(wanted, settings, pins).values()) - sum(before.values())) // MIB


def laid(wanted: Iterable[Fetch], settings: Settings, pins: Mapping[str, str]) -> dict[str, int]:
    """Bytes of each of these that lie here, by pin."""
    return {fetch.pin: laid_bytes(fetch, settings.hf_home, pins.get(fetch.pin)) for fetch in wanted}
