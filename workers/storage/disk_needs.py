"""What a job still needs of this box's disks: its disk plan without what is here already."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.estimates import disk, policy_sizes
from pi0q.jobs.estimates.disk import MIB, DiskPlan, SavedSoFar
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import inherit, local_store, start_sources
from pi0q.workers.host import files
from pi0q.workers.host.probe import Host
from pi0q.workers.hub import cached, requirements
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.storage import inventory

#: Seconds for which the size of a repository or of the kernels is reused: many waiting jobs ask for the same.
FRESH_SECONDS = 5.0
#: Jobs whose plan a box publishes.
SHOWN = 10
#: Sizes that are remembered.
REMEMBERED = 2000


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """What a job still needs of this box's disks, MiB."""

    #: On the data disk.
    disk_mib: int
    #: On the disk of the Hub's cache, where that is another one.
    hub_mib: int = 0


@dataclass
class DiskNeeds:
    """Measures the disk needs of jobs on one box."""

    settings: Settings
    box: str
    #: Plans of the jobs that were evaluated last, for `pi0q why`: job -> `DiskPlan.to_json`.
    shown_plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Sizes that were measured: what -> (monotonic time, size).
    _measured: dict[object, tuple[float, int]] = field(default_factory=dict)

    def need_of(self, job: Record, spec: Spec | str, host: Host) -> DiskNeed:
        """Return what the job still needs here; all of it where its spec can't be read."""
        if isinstance(spec, str):
            return DiskNeed(disk_mib=job.needs.get("disk_mib", 0))
        plan = self.plan(job, spec)
        if job.id in self.shown_plans or len(self.shown_plans) < SHOWN:
            self.shown_plans[job.id] = plan.to_json()
        there = sum(item.lacks_mib for item in plan.items if item.place == disk.HUB)
        if host.hub is None:
            return DiskNeed(disk_mib=plan.lacks_mib)
        return DiskNeed(disk_mib=max(0, plan.lacks_mib - there), hub_mib=there)

    def plan(self, job: Record, spec: Spec) -> DiskPlan:
        """Return the job's disk plan, with what of it is here."""
        own = RunDirectory(self.settings.runs / job.id)
        directory = inherit.predecessor(own, job.continues) or own
        sealed = list[Path]()
        # A disk that fails must not end the evaluation of all other jobs.
        with contextlib.suppress(OSError):
            sealed = [*local_store.sealed_checkpoints(directory.checkpoints).values()]
        sizes, here = disk.told(job.preflight), {"checkpoints": sum(map(files.size_mib, sealed))}
        for fetch in requirements.wanted(spec, resuming=False):
            if found := self._laid(fetch, job.pins.get(fetch.pin)):
                sizes[fetch.pin] = found
                kind = fetch.kind.removeprefix("own ")
                here[kind] = here.get(kind, 0) - (-found // MIB)
        if job.starts_from and start_sources.on_disk(self.settings.runs, job.starts_from):
            # It shares its space with the checkpoint.
            here["base"] = disk.EVERYTHING_MIB
        if job.box == self.box and job.started_ms is not None:
            here["kernels"] = self._kernels()
        known = job.checkpoint.bytes if job.checkpoint else int(job.disk_plan.get("checkpoint_mib") or 0) * MIB
        free = job.disk_plan.get("free")
        return disk.plan(
            policy_sizes.informed(spec, job.base),
            sizes=sizes,
            saved=SavedSoFar(bytes_each=known or None, pinned=len(job.protected_steps), resuming=bool(sealed)),
            here=here,
            at_least_mib=int(free.get(self.box) or 0) if isinstance(free, Mapping) else 0,
        )

    def reads(self, job: Record, spec: Spec) -> tuple[dict[str, int], frozenset[str]]:
        """Return the MiB of each repository that the job reads, by name, and the names of those that are here."""
        items = [item for item in self.plan(job, spec).items if item.place == disk.HUB and item.pin]
        return {item.pin: item.mib for item in items}, frozenset(item.pin for item in items if not item.lacks_mib)

    def _laid(self, fetch: Fetch, sha: str | None) -> int:
        """Return the bytes of a repository that is complete here; 0 if it is not."""
        return self._size((fetch, sha), lambda: cached.size_bytes(fetch, self.settings.hf_home, sha))

    def _kernels(self) -> int:
        places = {**inventory.places(self.settings), **inventory.shared_kernels(self.settings)}
        kernels = [path for kind, path in places.values() if kind == "kernels"]
        return self._size("kernels", lambda: sum(map(files.size_mib, kernels)))

    def _size(self, what: object, measure: Callable[[], int]) -> int:
        """Return a size, measured anew after FRESH_SECONDS."""
        at, size = self._measured.get(what, (-FRESH_SECONDS, 0))
        if time.monotonic() - at >= FRESH_SECONDS:
            if len(self._measured) >= REMEMBERED:
                self._measured.clear()
            at, size = time.monotonic(), measure()
            self._measured[what] = at, size
        return size
