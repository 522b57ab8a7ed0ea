"""What is seen of a trainer from outside while it runs, and said when it ended: the evidence of its end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi0q.jobs import diagnosis, symptoms
from pi0q.jobs.diagnosis import Diagnosis
from pi0q.jobs.evidence import Evidence, GpuState, Memory
from pi0q.workers.run import memory
from pi0q.workers.run.gpus import Gpus
from pi0q.workers.run.progress import Progress

MIB = 1024 * 1024
SHM = Path("/dev/shm")
#: Seconds between two looks at the memory.
LOOK_SECONDS = 1.0
#: Seconds that a driver has to say how its cards are.
DRIVER_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the trainer itself left behind."""

    exit_code: int
    progress: Progress
    #: The last lines of its log.
    log: Sequence[str]
    #: What was heard from outside that ended it.
    heard: str = ""
    #: How long it had been silent then, seconds.
    silent_seconds: float | None = None


class Witness:
    """Sees one life of one trainer; to be made right before its start."""

    def __init__(
        self,
        *,
        uuids: Sequence[str],
        data: Path,
        gpus: Gpus | None = None,
        groups: list[memory.Group] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`uuids`: of its GPUs; `data`: a directory on the disk that it writes to."""
        self.data, self.clock = data, clock
        self.gpus = gpus or Gpus(uuids)
        self._groups = memory.groups() if groups is None else groups
        self._kills = memory.now(self._groups).oom_kills
        self._memory, self._peak = Memory(), 0
        self._shm_free: int | None = None
        self._looked = -LOOK_SECONDS
        self.look()

    def look(self) -> None:
        """Notes what will be gone when the trainer is; cheap, and at most once a second."""
        if self.clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self.clock()
        self._memory = memory.now(self._groups)
        self._peak = max(self._peak, self._memory.used_mib or 0)
        if (free := _free_mib(SHM)) is not None:
            self._shm_free = free if self._shm_free is None else min(free, self._shm_free)

    def judge(self, words: Words, *, train: Mapping[str, Any], lerobot: str) -> Diagnosis:
        """Why it ended."""
        return diagnosis.judge(self.evidence(words, train=train, lerobot=lerobot))

    def evidence(self, words: Words, *, train: Mapping[str, Any], lerobot: str) -> Evidence:
        """Everything that was seen, put together."""
        kind, text = words.progress.error or (None, "")
        known = words.progress.fields
        kills = memory.now(self._groups).oom_kills
        seen = replace(
            self._memory,
            oom_kills=None if kills is None or self._kills is None else kills - self._kills,
            peak_mib=self._peak or None,
        )
        failed = symptoms.EXITS.get(words.exit_code) is None or words.heard == "hung"
        return Evidence(
            exit_code=words.exit_code,
            error=kind.rpartition(".")[2] if kind else None,
            message=text,
            causes=words.progress.causes,
            step=known.get("step"),
            log=tuple(words.log),
            heard=words.heard,
            silent_seconds=words.silent_seconds,
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
        """The cards' states; one whose driver never answers is as good as lost, and must not hold up the last word."""
        told: list[tuple[GpuState, ...]] = []
        asking = threading.Thread(target=lambda: told.append(self.gpus.states()), daemon=True)
        asking.start()
        asking.join(DRIVER_SECONDS)
        silent = (GpuState(uuid=uuid, lost="its driver does not answer") for uuid in self.gpus.uuids)
        return told[0] if told else tuple(silent)

    def close(self) -> None:
        """Stops listening to the driver."""
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
