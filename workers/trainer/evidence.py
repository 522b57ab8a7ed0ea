"""Collect the evidence for diagnosing a trainer's exit: memory, GPUs, disk, log, exit code."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi0q.jobs.failures import classify, diagnosis
from pi0q.jobs.failures.diagnosis import Diagnosis
from pi0q.jobs.failures.evidence import Evidence, GpuState, Memory
from pi0q.workers.host import cgroup_memory
from pi0q.workers.host.files import MIB
from pi0q.workers.host.gpu_health import Gpus
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress

SHM = Path("/dev/shm")
#: Seconds between two looks at the memory.
LOOK_SECONDS = 1.0
#: Seconds that a driver has to say how its cards are.
DRIVER_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class TrainerOutput:
    """What the trainer itself left behind: exit code, events and log."""

    exit_code: int
    progress: Progress
    #: The last lines of its log.
    log: Sequence[str]
    #: Whether the watchdog stopped it.
    hung: bool = False
    #: Of several ranks the one whose end ended all; exit code and log are its.
    rank: int = 0
    #: How long it had been silent then, seconds.
    silent_seconds: float | None = None


class EvidenceCollector(TrainerListener):
    """Collects the evidence of one trainer process; create it right before the process starts."""

    def __init__(
        self,
        *,
        uuids: Sequence[str],
        data: Path,
        gpus: Gpus | None = None,
        groups: list[cgroup_memory.Group] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`uuids`: of its GPUs; `data`: a directory on the disk that it writes to."""
        self.data, self.clock = data, clock
        self.gpus = gpus or Gpus(uuids)
        self._groups = cgroup_memory.groups() if groups is None else groups
        self._kills = cgroup_memory.now(self._groups).oom_kills
        self._memory, self._peak = Memory(), 0
        self._shm_free: int | None = None
        self._looked = -LOOK_SECONDS
        self.on_tick()

    def on_tick(self) -> None:
        """Note what will be gone with the trainer; cheap, and at most once a second."""
        if self.clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self.clock()
        self._memory = cgroup_memory.now(self._groups)
        self._peak = max(self._peak, self._memory.used_mib or 0)
        if (free := _free_mib(SHM)) is not None:
            self._shm_free = free if self._shm_free is None else min(free, self._shm_free)

    def judge(self, output: TrainerOutput, *, train: Mapping[str, Any], lerobot: str) -> Diagnosis:
        """Return why the trainer ended."""
        return diagnosis.judge(self.evidence(output, train=train, lerobot=lerobot))

    def evidence(self, output: TrainerOutput, *, train: Mapping[str, Any], lerobot: str) -> Evidence:
        """Return everything that was seen."""
        known = output.progress.fields
        error, causes = output.progress.raised_by(output.rank)
        kills = cgroup_memory.now(self._groups).oom_kills
        seen = replace(
            self._memory,
            oom_kills=None if kills is None or self._kills is None else kills - self._kills,
            peak_mib=self._peak or None,
        )
        failed = classify.EXITS.get(output.exit_code) is None or output.hung
        return Evidence(
            exit_code=output.exit_code,
            error=error,
            causes=causes,
            step=known.get("step"),
            log=tuple(output.log),
            heard="hung" if output.hung else "",
            silent_seconds=output.silent_seconds,
            memory=seen,
            shm_mib=_size_mib(SHM),
            shm_free_mib=self._shm_free,
            disk_free_mib=_free_mib(self.data),
            disk_free_inodes=_free_inodes(self.data),
            gpus=self._gpus() if failed else (),
            vram_peak_mib=known.get("vram_peak_mib"),
            train=train,
            lerobot=lerobot,
        )

    def _gpus(self) -> tuple[GpuState, ...]:
        """Return the states of the GPUs; one whose driver never answers counts as lost and must not delay the end."""
        told: list[tuple[GpuState, ...]] = []
        asking = threading.Thread(target=lambda: told.append(self.gpus.states()), daemon=True)
        asking.start()
        asking.join(DRIVER_SECONDS)
        silent = (GpuState(uuid=uuid, lost="its driver does not answer") for uuid in self.gpus.uuids)
        return told[0] if told else tuple(silent)

    def close(self) -> None:
        """Stop listening to the driver."""
        self.gpus.close()


def _size_mib(path: Path) -> int | None:
    stats = _stats(path)
    return stats.f_blocks * stats.f_frsize // MIB if stats else None


def _free_mib(path: Path) -> int | None:
    stats = _stats(path)
    return stats.f_bavail * stats.f_frsize // MIB if stats else None


def _free_inodes(path: Path) -> int | None:
    stats = _stats(path)
    return stats.f_favail if stats and stats.f_files else None


def _stats(path: Path) -> os.statvfs_result | None:
    try:
        return os.statvfs(path)
    except OSError:
        return None
