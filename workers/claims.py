"""May this box take this job? Pure: what was measured comes in, a fit or every shortfall comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pi0q.jobs.outcome import OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.workers.probe import Disk, Gpu, Host

#: Files that a run may make: caches, checkpoints and logs of a job with a few dozen saves.
INODES_NEEDED = 20_000

#: resource -> (changes seen, job -> MiB promised), as `Store.promises` reads it.
Promises = Mapping[str, tuple[int, Mapping[str, int]]]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The job fits: what to promise it. Each promise is (resource, changes seen, MiB)."""

    gpus: tuple[Gpu, ...]
    promises: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """The job does not fit, and why, each lack with both numbers."""

    shortfalls: tuple[str, ...]


def resources(host: Host) -> list[str]:
    """The keys of all that this host can promise."""
    return [*(gpu.resource for gpu in host.gpus), host.data.resource]


def judge(
    job: Record,
    host: Host,
    promises: Promises,
    owned: Iterable[Record],
    *,
    box: str,
    here_mib: int,
    waited_seconds: float,
    wait_for_box: float,
    system_reserve_mib: int,
    problems: Iterable[str] = (),
) -> Fit | Misfit:
    """Judges one waiting job.

    `owned` are the jobs of this box: what they hold already is in the measured use and so comes off their
    promise. `here_mib` is what this job already has on the data disk. `problems` are reasons of other rooms
    (trainer, dataset) why it can't run here.
    """
    shortfalls = list(problems)
    if (pause := pause_seconds(job)) > waited_seconds:
        shortfalls.append(f"{job.reason}: tried again in {pause - waited_seconds:.0f} s")
    using = {record.id: record for record in owned}
    if job.box and job.box != box and job.checkpoint and waited_seconds < wait_for_box:
        shortfalls.append(
            f"its checkpoint is on {job.box}, which may still take it for {wait_for_box - waited_seconds:.0f} s"
        )
    vram = {gpu.uuid: gpu.free_mib - _due(promises[gpu.resource][1], using, "vram_now_mib") for gpu in host.gpus}
    gpus, lack = choose(job.needs.get("gpus", 0), job.needs.get("vram_mib", 0), host, vram)
    shortfalls += lack
    # What lay here already was not enough the last time.
    filled_up = job.reason is Reason.DISK_FULL and job.box == box
    disk = max(0, job.needs.get("disk_mib", 0) - (0 if filled_up else here_mib))
    free = host.data.free_mib - _due(promises[host.data.resource][1], using, "disk_now_mib")
    if disk > free:
        promised = _promised(free, host.data.free_mib)
        shortfalls.append(f"disk: needs {_gib(disk)}, {_gib(max(0, free))} free on {host.data.path}{promised}")
    for place in (host.data, host.system):
        shortfalls += _inodes(place)
    if host.system.free_mib < system_reserve_mib:
        shortfalls.append(f"system disk: {_gib(host.system.free_mib)} free, {_gib(system_reserve_mib)} must stay free")
    if shortfalls:
        return Misfit(shortfalls=tuple(shortfalls))
    wanted = [(gpu.resource, job.needs.get("vram_mib", 0)) for gpu in gpus] + [(host.data.resource, disk)]
    return Fit(gpus=gpus, promises=tuple((resource, promises[resource][0], mib) for resource, mib in wanted))


def pause_seconds(job: Record) -> float:
    """How long the job must have been back in the queue before it is tried again."""
    return job.rest_seconds if job.reason and OUTCOMES[job.reason].next is Next.REST else 0.0


def choose(count: int, vram_mib: int, host: Host, available: Mapping[str, int]) -> tuple[tuple[Gpu, ...], list[str]]:
    """The `count` GPUs with the least VRAM that still suffices, or what is lacking."""
    if count == 0:
        return (), []
    if len(host.gpus) < count:
        why = f" ({host.gpu_fault})" if host.gpu_fault and not host.gpus else ""
        return (), [f"GPUs: needs {count}, the box has {len(host.gpus) or 'none'}{why}"]
    fitting = sorted((gpu for gpu in host.gpus if available[gpu.uuid] >= vram_mib), key=lambda gpu: available[gpu.uuid])
    if len(fitting) >= count:
        return tuple(fitting[:count]), []
    best = max(host.gpus, key=lambda gpu: available[gpu.uuid])
    left = max(0, available[best.uuid])
    promised = _promised(left, best.free_mib)
    return (), [
        f"VRAM: needs {_gib(vram_mib)} on {count} GPU{'s' * (count > 1)}, {len(fitting)} have it; "
        f"the best has {_gib(left)} of {_gib(best.total_mib)} free{promised}"
    ]


def _due(promised: Mapping[str, int], using: Mapping[str, Record], field: str) -> int:
    """What is promised and not yet taken: a job that loads its model still has all of it to come."""
    return sum(max(0, mib - (getattr(using[job], field) if job in using else 0)) for job, mib in promised.items())


def _inodes(place: Disk) -> list[str]:
    if place.free_inodes is None or place.free_inodes >= INODES_NEEDED:
        return []
    return [f"inodes: {place.path} can hold {place.free_inodes} more files, {INODES_NEEDED} are needed"]


def _promised(left: int, measured: int) -> str:
    return f" ({_gib(measured - left)} more are promised to running jobs)" if left < measured else ""


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
