"""Measure what a box has free: VRAM of each GPU through NVML, bytes and inodes of its disks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.queue.settings import Settings
from pi0q.workers.host import card_links, nvml
from pi0q.workers.host.card_links import Distances
from pi0q.workers.host.files import MIB
from pi0q.workers.host.identity import host_boot


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as it is now."""

    uuid: str
    name: str
    total_mib: int
    free_mib: int
    simulated: bool = False

    @property
    def resource(self) -> str:
        """The key of what is promised of it; the same from every container that sees this card."""
        return f"gpu:{self.uuid}"


@dataclass(frozen=True, kw_only=True)
class Disk:
    """One file system as it is now."""

    path: str
    free_mib: int
    #: Files that can still be made; None where the file system has no such limit.
    free_inodes: int | None
    #: The key of what is promised of it.
    resource: str
    total_mib: int = 0


@dataclass(frozen=True, kw_only=True)
class Host:
    """The measurements that a claim is decided by."""

    gpus: tuple[Gpu, ...]
    data: Disk
    system: Disk
    #: Where the Hub's cache is, if that is neither of them.
    hub: Disk | None = None
    #: Why GPUs could not be measured, if so.
    gpu_fault: str = ""
    #: How far the GPUs are from one another; empty where nobody tells.
    distances: Distances = ()


def measure(settings: Settings, *, box: str) -> Host:
    """Measure the box now; takes about a millisecond once NVML is loaded."""
    gpus, fault = fake_gpus(settings.fake_gpus, box), ""
    if settings.fake_gpus is None:
        gpus, fault = nvml_gpus()
    data, system, hub = disk(settings.home), disk(Path("/")), disk(settings.hf_home)
    apart = hub.resource not in (data.resource, system.resource)
    distances = () if settings.fake_gpus is not None else card_links.measured([gpu.uuid for gpu in gpus])
    return Host(gpus=gpus, gpu_fault=fault, data=data, system=system, hub=hub if apart else None, distances=distances)


def fake_gpus(described: Sequence[Mapping[str, Any]] | None, box: str) -> tuple[Gpu, ...]:
    """Return the GPUs that PI0Q_FAKE_GPUS simulates."""
    return tuple(
        Gpu(
            uuid=f"FAKE-{box}-{index}",
            name=str(gpu.get("name", "simulated GPU")),
            total_mib=int(gpu["total_gib"] * 1024),
            free_mib=int((gpu["total_gib"] - gpu.get("used_gib", 0)) * 1024),
            simulated=True,
        )
        for index, gpu in enumerate(described or ())
    )


def nvml_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return every GPU that the driver shows, and why if it shows none."""
    try:
        binding = nvml.load()
    except nvml.Unavailable as error:
        return (), str(error)
    try:
        return tuple(_gpu(binding, index) for index in range(binding.nvmlDeviceGetCount())), ""
    except nvml.error_type(binding) as error:
        return (), str(error)


def _gpu(binding: Any, index: int) -> Gpu:
    handle = binding.nvmlDeviceGetHandleByIndex(index)
    # The first version of this call counts the driver's own reserve as used, so `free` is what a job can get.
    memory = binding.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=nvml.text(binding.nvmlDeviceGetUUID(handle)),
        name=nvml.text(binding.nvmlDeviceGetName(handle)),
        total_mib=memory.total // MIB,
        free_mib=memory.free // MIB,
    )


def disk(path: Path) -> Disk:
    """Measure the file system that `path` is on, or will be once it is made."""
    while not path.exists():
        path = path.parent
    stats = os.statvfs(path)
    return Disk(
        path=str(path),
        free_mib=stats.f_bavail * stats.f_frsize // MIB,
        free_inodes=stats.f_favail if stats.f_files else None,
        resource=f"disk:{host_boot()}-{path.stat().st_dev}",
        total_mib=stats.f_blocks * stats.f_frsize // MIB,
    )
