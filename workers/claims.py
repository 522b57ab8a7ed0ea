"""May this box take this job? Pure: what was measured comes in, a fit or every shortfall comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pi0q.jobs.copies import HANDED_OVER
from pi0q.jobs.disk import gib
from pi0q.jobs.outcome import OUTCOMES, Next
from pi0q.jobs.record import Record
from pi0q.workers.probe import Disk, Gpu, Host

if TYPE_CHECKING:
    from pi0q.workers.shelf import Item

#: Files that a run may make: caches, checkpoints and logs of a job with a few dozen saves.
INODES_NEEDED = 20_000

#: Seconds that other boxes have to take a job whose last failure says something of its box.
ELSEWHERE_SECONDS = 60.0

#: Caches that a line names, at the most.
SHOWN = 3

#: resource -> (changes seen, job -> MiB promised), as `Store.promises` reads it.
Promises = Mapping[str, tuple[int, Mapping[str, int]]]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The job fits: what to promise it. Each promise is (resource, changes seen, MiB)."""

    gpus: tuple[Gpu, ...]
    promises: tuple[tuple[str, int, int], ...]
    #: Caches that must go for it, see care.py.
    going: tuple[Item, ...] = ()
    #: What the disk lacks without them, in words.
    lack: str = ""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """The job does not fit, and why, each lack with both numbers."""

    shortfalls: tuple[str, ...]
    #: It would fit if this much more of the data disk were free, MiB; 0: that is not all it lacks.
    disk_lacks_mib: int = 0


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
    disk_mib: int,
    waited_seconds: float,
    wait_for_box: float,
    hub_mib: int = 0,
    system_reserve_mib: int,
    problems: Iterable[str] = (),
    spare: Sequence[Item] = (),
    system_cure: str = "",
) -> Fit | Misfit:
    """Judges one waiting job.

    `owned` are the jobs of this box: what they hold already is in the measured use and so comes off their
    promise. `disk_mib` is what this job still needs of the data disk, and `hub_mib` of the Hub's cache where that is on
    another one (see stock.py). `problems` are reasons of other rooms
    (trainer, dataset) why it can't run here. `spare` are caches that may go, in that order, and `system_cure` says
    what would make room on the system disk.
    """
    shortfalls = list(problems)
    if (pause := pause_seconds(job)) > waited_seconds:
        shortfalls.append(f"{job.reason}: tried again in {pause - waited_seconds:.0f} s")
    if (left := elsewhere_seconds(job, box) - waited_seconds) > 0:
        shortfalls.append(f"{job.reason} happened here: another box may take it first, for {left:.0f} s")
    using = {record.id: record for record in owned}
    if job.box and job.box != box and job.checkpoint and waited_seconds < wait_for_box and not handed_over(job):
        shortfalls.append(
            f"its checkpoint is on {job.box}, which may still take it for {wait_for_box - waited_seconds:.0f} s"
        )
    vram = {gpu.uuid: gpu.free_mib - due(promises[gpu.resource][1], using, "vram_now_mib") for gpu in host.gpus}
    gpus, short = choose(job.needs.get("gpus", 0), job.needs.get("vram_mib", 0), host, vram)
    shortfalls += short
    free = host.data.free_mib - due(promises[host.data.resource][1], using, "disk_now_mib")
    lacking, going = disk_mib - free, enough(spare, disk_mib - free)
    lack = _disk_lack(disk_mib, free, host.data, going or spare) if lacking > 0 else ""
    if lack and not going:
        shortfalls.append(lack)
    if host.hub is not None and hub_mib > host.hub.free_mib:
        shortfalls.append(_disk_lack(hub_mib, host.hub.free_mib, host.hub, ()))
    for place in (host.data, host.system):
        shortfalls += _inodes(place)
    if host.system.free_mib < system_reserve_mib:
        cure = f": {system_cure}" if system_cure else ""
        shortfalls.append(
            f"system disk: {gib(host.system.free_mib)} free, {gib(system_reserve_mib)} must stay free{cure}"
        )
    if shortfalls:
        return Misfit(shortfalls=tuple(shortfalls), disk_lacks_mib=lacking if shortfalls == [lack] else 0)
    wanted = [(gpu.resource, job.needs.get("vram_mib", 0)) for gpu in gpus] + [(host.data.resource, disk_mib)]
    promised = tuple((resource, promises[resource][0], mib) for resource, mib in wanted)
    return Fit(gpus=gpus, promises=promised, going=going, lack=lack)


def enough(spare: Sequence[Item], lacking_mib: int) -> tuple[Item, ...]:
    """Which of these go so that this much comes free: those used longest ago, and none in vain; () if all are too few.

    `spare` is in the order in which it goes.
    """
    chosen: list[Item] = []
    freed = 0
    for item in spare:
        if freed >= lacking_mib:
            break
        chosen.append(item)
        freed += item.mib
    if freed < lacking_mib:
        return ()
    for item in reversed(chosen[:-1]):
        if freed - item.mib >= lacking_mib:
            chosen.remove(item)
            freed -= item.mib
    return tuple(chosen)


def words(items: Sequence[Item]) -> str:
    """The caches of lerobot/x and lerobot/y."""
    shown = [item.what for item in items[:SHOWN]]
    more = len(items) - len(shown)
    *most, last = [*shown, f"{more} more"] if more else shown
    return f"{', '.join(most)} and {last}" if most else last


def handed_over(job: Record) -> bool:
    """Its box gave it back, or has no room for it, and all it had is copied: nobody need wait for that box."""
    whole = bool(job.checkpoint and job.copied and job.copied.step >= job.checkpoint.step)
    return whole and job.reason in HANDED_OVER


def pause_seconds(job: Record) -> float:
    """How long the job must have been back in the queue before it is tried again."""
    return job.rest_seconds if job.reason and OUTCOMES[job.reason].next is Next.REST else 0.0


def elsewhere_seconds(job: Record, box: str) -> float:
    """How long a job is left to others that failed for this box's sake; a checkpoint that lies here keeps it here."""
    if not job.reason or job.box != box or job.checkpoint:
        return 0.0
    return ELSEWHERE_SECONDS if OUTCOMES[job.reason].elsewhere else 0.0


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
        f"VRAM: needs {gib(vram_mib)} on {count} GPU{'s' * (count > 1)}, {len(fitting)} have it; "
        f"the best has {gib(left)} of {gib(best.total_mib)} free{promised}"
    ]


def _disk_lack(needed: int, free: int, place: Disk, spare: Sequence[Item]) -> str:
    """What the data disk lacks, and what its caches could give."""
    promised = _promised(free, place.free_mib)
    told = f"disk: needs {gib(needed)}, {gib(max(0, free))} free on {place.path}{promised}"
    if not spare:
        return told
    goes = "goes" if len(spare) == 1 else "go"
    return f"{told} and {gib(sum(item.mib for item in spare))} more if {words(spare)} {goes}"


def due(promised: Mapping[str, int], using: Mapping[str, Record], field: str) -> int:
    """What is promised and not yet taken: a job that loads its model still has all of it to come."""
    return sum(max(0, mib - (getattr(using[job], field) if job in using else 0)) for job, mib in promised.items())


def _inodes(place: Disk) -> list[str]:
    if place.free_inodes is None or place.free_inodes >= INODES_NEEDED:
        return []
    return [f"inodes: {place.path} can hold {place.free_inodes} more files, {INODES_NEEDED} are needed"]


def _promised(left: int, measured: int) -> str:
    return f" ({gib(measured - left)} more are promised to running jobs)" if left < measured else ""
