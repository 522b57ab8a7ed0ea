"""Choose the waiting jobs whose inputs are fetched before their turn: in the queue's order, what fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pi0q.jobs.estimates import disk
from pi0q.jobs.estimates.disk import DiskPlan


@dataclass(frozen=True, kw_only=True)
class JobNeed:
    """What a job still takes of this box's disks."""

    job_id: str
    #: MiB of each repository that is not here.
    inputs: Mapping[str, int]
    #: MiB of all that its run writes: checkpoints, kernels, logs.
    run_mib: int


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the disks have free, MiB."""

    data_mib: int
    #: The disk of the Hub's cache, where that is another one.
    hub_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class Lack:
    """Why a job's inputs are not fetched: this much would have to be free, MiB."""

    needed_mib: int
    free_mib: int


def need_of(job_id: str, plan: DiskPlan) -> JobNeed:
    """Return what a job takes by its disk plan."""
    inputs = {item.pin or item.what: item.lacks_mib for item in plan.items if item.place == disk.HUB}
    return JobNeed(job_id=job_id, inputs=inputs, run_mib=max(0, plan.lacks_mib - sum(inputs.values())))


def lacks(needs: Iterable[JobNeed], room: Room) -> dict[str, Lack]:
    """Return the jobs that do not fit beside those before them, by id; all others' inputs are to be fetched.

    The jobs run one after the other: besides everybody's inputs there must be room for the largest run.
    """
    chosen, run, found = dict[str, int](), 0, dict[str, Lack]()
    for need in needs:
        inputs = {**chosen, **need.inputs}
        fetched, largest = sum(inputs.values()), max(run, need.run_mib)
        if (lack := _lack(fetched, largest, room)) is None:
            chosen, run = inputs, largest
        else:
            found[need.job_id] = lack
    return found


def _lack(fetched: int, largest: int, room: Room) -> Lack | None:
    apart = room.hub_mib is not None
    if room.hub_mib is not None and fetched > room.hub_mib:
        return Lack(needed_mib=fetched, free_mib=room.hub_mib)
    needed = largest if apart else fetched + largest
    return Lack(needed_mib=needed, free_mib=room.data_mib) if needed > room.data_mib else None
