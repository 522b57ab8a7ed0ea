"""Helper process that copies a checkpoint elsewhere, or brings one back; it has the lowest priority.

    {"act": "copy", "place": …, "job": …, "epoch": 3, "lease": …, "parent": …, "endpoint": …,
     "checkpoint": …, "keep": 2, "spared": [], "roots": []}                on stdin
    {"act": "fetch", …, "newer_than": 10, "before": …, "into": …, "part": …, "manifests": [SHA-256, …],
     "only": 20, "below": "pretrained_model/",                             of that step alone, and of its files a part
     "signers": {"keys": ["box ed25519 …", …], "jobs": [id, …] | null, "unsigned": false}}   absent: nobody need sign
    {"done": 3100000000, "total": 23100000000, "step": 20}                 on stdout, a line each, while bytes move
    {"bad": 20, "why": …, "foreign": false, "unsigned": true}              a copy that does not verify, or is not ours
    {"copied": …, "gone": [10]} | {"fetched": "000020", "from": …}  how it ended
    {"failed": …, "damaged": true} | {"lost": …}

The token is read as huggingface_hub reads it, and goes to the Hub itself only.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi0q.jobs import replicas
from pi0q.jobs.outcome import Reason
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.checkpoints import signers, transfer
from pi0q.workers.checkpoints.replica_directory import ReplicaDirectory, TargetUnusable
from pi0q.workers.checkpoints.transfer import Damaged, Foreign, TransferCorrupted, TransferHooks, Unsigned
from pi0q.workers.host import files, helper_base
from pi0q.workers.host.helper_base import HelperProcess
from pi0q.workers.host.own_files import Untrusted
from pi0q.workers.hub.errors import classify
from pi0q.workers.runs.lease import FILE, LeaseExpired, boottime

if TYPE_CHECKING:
    from pi0q.workers.checkpoints.replica_hub import ReplicaRepository

#: Seconds of CPU time since the last heartbeat that count as progress, whether or not bytes were counted
#: meanwhile. On a busy machine it gets hardly more than that between two heartbeats.
BUSY_SECONDS = 0.01
NICEST = 19
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class LeaseGuard:
    """The runner's lease, read from shared memory; without a path it never ends."""

    def __init__(self, path: str | None) -> None:
        self._shared: mmap.mmap | None = None
        if path:
            with Path(path).open("rb") as file:
                self._shared = mmap.mmap(file.fileno(), FILE.size, access=mmap.ACCESS_READ)

    def require(self) -> None:
        """Raise LeaseExpired once the lease has ended."""
        if self._shared is not None and boottime() * 1e9 >= FILE.unpack(self._shared[:])[1]:
            raise LeaseExpired("the lease is over")


class ReplicateJob(HelperProcess):
    """Copies one checkpoint, or brings one back."""

    heartbeat_seconds = 0.5
    # The old runner's parent side knows no such line.
    reports_bugs = False

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(request)
        self.lease = LeaseGuard(request["lease"])
        self._total = 0
        self._step: int | None = None
        self._busy = 0.0
        self.hooks = TransferHooks(
            count=self.count,
            require_lease=self.lease.require,
            expect=self.expect,
            judge=signers.judge_of(request.get("signers")),
        )

    def count(self, size: int) -> None:
        """Note that bytes were moved. Raises LeaseExpired."""
        super().count(size)
        self.lease.require()

    def expect(self, total: int) -> None:
        """Start counting towards so many bytes."""
        self.counted, self._total = 0, total

    def progressed(self) -> bool:
        """Return whether bytes were counted, or another thread than this one computed."""
        busy = time.process_time() - time.thread_time()
        if not super().progressed() and busy - self._busy < BUSY_SECONDS:
            return False
        self._busy = busy
        return True

    def heartbeat(self) -> None:
        self.emit(done=self.counted, total=self._total, step=self._step)

    def place(self, job: str = "") -> ReplicaDirectory | ReplicaRepository:
        order, job = self.request, job or self.request["job"]
        if repo_id := replicas.repository(order["place"]):
            from pi0q.workers.checkpoints.replica_hub import ReplicaRepository

            return ReplicaRepository(repo_id, job, endpoint=order["endpoint"], hooks=self.hooks)
        roots = [Path(root) for root in order.get("roots", ())]
        return ReplicaDirectory(order["place"], job, epoch=order["epoch"], hooks=self.hooks, roots=roots)

    def run(self) -> None:
        """Serve the request; the last line says how it ended."""
        if self.request["act"] == "copy":
            quiet()
        self.start_heartbeat()
        try:
            end = self.copy() if self.request["act"] == "copy" else self.fetch()
        except OwnershipLost as lost:
            end = {"lost": str(lost)}
        except Damaged as damaged:
            end = {"failed": f"the checkpoint here is damaged: {damaged}", "damaged": True}
        except Exception as error:
            if (why := explain(error, self.request["place"], brings_back=self.request["act"] == "fetch")) is None:
                raise
            end = {"failed": why}
        self.emit(**end)

    def copy(self) -> dict[str, Any]:
        """Copy a checkpoint of this box, then remove the copies that it replaces."""
        place, checkpoint = self.place(), Path(self.request["checkpoint"])
        manifest, text = transfer.read_manifest(checkpoint)
        self._step = manifest.step
        path = place.put(checkpoint, manifest, text)
        return {"copied": path, "gone": self._prune(place, newest=manifest.step)}

    def _prune(self, place: ReplicaDirectory | ReplicaRepository, *, newest: int) -> list[int]:
        """Remove what the new copy replaces; the new one counts as made, whatever becomes of the old ones."""
        try:
            return place.prune(self.request["keep"], self.request["spared"], newest=newest)
        except OwnershipLost:
            return []
        except Exception as error:
            if explain(error, self.request["place"], brings_back=False) is None:
                raise
            return []

    def fetch(self) -> dict[str, Any]:
        """Bring the newest good copy that is newer than what is here into the run's directory."""
        known: list[str] | None = self.request.get("manifests")
        into, part = Path(self.request["into"]), Path(self.request["part"])
        copies = [
            (step, name, job, place)
            for job in dict.fromkeys([self.request["job"], self.request.get("before") or self.request["job"]])
            for place in [self.place(job)]
            for step, name in place.names().items()
            if step > self.request["newer_than"] and step == self.request.get("only", step)
        ]
        for step, name, job, place in sorted(copies, key=lambda copy: -copy[0]):
            self._step = step
            try:
                place.fetch(name, part / name, known=known, below=self.request.get("below", ""))
            except Damaged as error:
                unsigned = isinstance(error, Unsigned)
                told = {"unsigned": True} if unsigned else {}
                self.emit(bad=step, why=str(error), foreign=isinstance(error, Foreign), **told)
                shutil.rmtree(part, ignore_errors=True)
                # What another job's run copied is that run's to judge.
                if "only" not in self.request and not unsigned:
                    with contextlib.suppress(OSError):
                        place.set_aside(name)
                continue
            into.mkdir(parents=True, exist_ok=True)
            self.lease.require()
            if (into / name).exists():
                # It is damaged or unfinished: a good one would be as new as this copy.
                shutil.rmtree(into / name)
            (part / name).rename(into / name)
            files.fsync(into)
            shutil.rmtree(part, ignore_errors=True)
            return {"fetched": name, "from": replicas.path_of(self.request["place"], job, name)}
        shutil.rmtree(part, ignore_errors=True)
        return {"fetched": ""}


def explain(error: Exception, place: str, *, brings_back: bool) -> str | None:
    """Return the sentence for an error; None for pi0q's own fault. `brings_back`: it writes to this box's disk."""
    if isinstance(error, (TargetUnusable, Untrusted, TransferCorrupted)):
        return str(error)
    if replicas.repository(place):
        repo_id = replicas.repository(place)
        classified = classify(error, f"the copies in {place}", repo_id, resubmit=False)
        if classified is not None:
            # What a network error says besides is said of downloads.
            return classified.why if classified.reason is Reason.NETWORK else f"{classified.why}. {classified.fix}"
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return f"{'the data disk of this box' if brings_back else place} is full: make room there"
        return f"{place}: {error.strerror or type(error).__name__}"
    return None


def quiet() -> None:
    """Use the CPU and the disk only when nobody else needs them."""
    import psutil

    os.nice(NICEST)

    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def main() -> None:
    helper_base.main(ReplicateJob)


if __name__ == "__main__":
    main()
