"""Decide whether this box may take a waiting job. Pure: measurements come in, a fit or every refusal comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pi0q.jobs.outcome import OUTCOMES, Next
from pi0q.jobs.record import Record
from pi0q.jobs.replicas import HANDED_OVER
from pi0q.queue import capacity, refusals, schedule
from pi0q.queue.capacity import CardNeed, CardRoom, shortage
from pi0q.queue.refusals import CardsReserved, Refusal, SlotsInUse, TooLittleDisk
from pi0q.queue.schedule import UNKNOWN, Reserved, Waiting
from pi0q.workers.claims import card_choice
from pi0q.workers.host.probe import Disk, Gpu, Host
from pi0q.workers.storage.eviction import choose, outstanding_mib

if TYPE_CHECKING:
    from pi0q.workers.storage.disk_needs import DiskNeed
    from pi0q.workers.storage.inventory import Item

#: Files that a run may make: caches, checkpoints and logs of a job with a few dozen saves.
INODES_NEEDED = 20_000

#: Seconds that other boxes have to take a job whose last failure says something of its box.
ELSEWHERE_SECONDS = 60.0

#: resource -> (changes seen, job -> MiB promised), as `Store.promises` reads it.
Promises = Mapping[str, tuple[int, Mapping[str, int]]]


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A waiting job as this box sees it."""

    record: Record
    #: What the job still needs of this box's disks.
    disk_need: DiskNeed
    waited_seconds: float
    #: VRAM that it needs on each GPU, MiB: by its dataset's own images where its file states none.
    vram_mib: int
    #: Seconds after which it has ended for sure.
    at_most: float = UNKNOWN
    #: Refusals for other reasons than time and capacity: spec, trainer, dataset, directory of copies.
    problems: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BoxState:
    """What of a box decides: its measurements, its promises, its jobs and its settings."""

    name: str
    host: Host
    promises: Promises
    #: The jobs that the box owns: what they hold is part of the measured use and so comes off their promises.
    owned: Mapping[str, Record]
    #: Seconds that a job waits for the box that has its checkpoint.
    wait_for_box: float
    #: MiB that must stay free on the system disk.
    system_reserve_mib: int
    #: Jobs of other boxes on the same cards that share them.
    sharing: frozenset[str] = frozenset()
    #: Cards that are kept for jobs that need several.
    reserved: tuple[Reserved, ...] = ()
    #: Jobs that the box may run at a time; those that share a card count once.
    slots: int = 1
    #: Commands that make room on the system disk, each with the MiB that it frees.
    system_commands: tuple[tuple[str, int], ...] = ()

    def free_mib(self, resource: str, measured_mib: int, held: str) -> int:
        """Return what is measured as free and promised to no job; `held` is the record's field of what a job holds."""
        return measured_mib - outstanding_mib(self.promises[resource][1], self.owned, held)

    def cards(self) -> tuple[CardRoom, ...]:
        """Return what each GPU has for one more training."""
        return tuple(map(self._card, self.host.gpus))

    def _card(self, gpu: Gpu) -> CardRoom:
        promised = self.promises[gpu.resource][1]
        # Nobody measures what is used of a simulated card: all that was promised of it is.
        free = gpu.free_mib - sum(promised.values()) if gpu.simulated else None
        return CardRoom(
            total_mib=gpu.total_mib,
            name=gpu.name,
            measured_mib=gpu.free_mib,
            free_mib=self.free_mib(gpu.resource, gpu.free_mib, "vram_now_mib") if free is None else free,
            jobs=tuple(sorted(promised)),
            shared=all(job in self.sharing or self._shares(job) for job in promised),
            user=next((self.owned[job].submitter for job in sorted(promised) if job in self.owned), ""),
        )

    def _shares(self, job: str) -> bool:
        return job in self.owned and capacity.shares(self.owned[job])

    @property
    def used_slots(self) -> int:
        """Return how many slots the box's jobs take: those that share a card take one together."""
        return used_slots(self.owned.values())


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The job fits: what to promise it. Each promise is (resource, changes seen, MiB)."""

    gpus: tuple[Gpu, ...]
    promises: tuple[tuple[str, int, int], ...]
    #: Caches to evict once the claim is won.
    evict: tuple[Item, ...] = ()
    #: What the data disk lacks without that; None where it lacks nothing.
    lacking: TooLittleDisk | None = None


def used_slots(owned: Iterable[Record]) -> int:
    """Return how many slots these jobs take: those that share a card take one together."""
    used, taken = 0, set[str]()
    for job in owned:
        used += not job.gpus or bool(set(job.gpus) - taken)
        taken.update(job.gpus)
    return used


def resources(host: Host) -> list[str]:
    """Return the keys of everything that this host can promise."""
    return [*(gpu.resource for gpu in host.gpus), host.data.resource]


def evaluate(job: JobView, box: BoxState, evictable: Sequence[Item] = ()) -> Fit | list[Refusal]:
    """Return what to promise the job, or every reason against it.

    `evictable` are caches that may go, in that order; none is chosen where something else is against the job too.
    """
    need = replace(capacity.needed(job.record), vram_mib=job.vram_mib)
    unchosen = capacity.not_chosen(need, box.name, box.cards())
    turn = Waiting(id=job.record.id, gpus=need.gpus, vram_mib=need.vram_mib, at_most=job.at_most)
    gpus, too_little = choose_gpus(need, box, turn)
    lacking, evict = check_data_disk(job, box, evictable)
    against = [*job.problems, *check_timing(job, box), *([unchosen] if unchosen else too_little)]
    if lacking and not evict:
        against.append(lacking)
    against += check_other_disks(job, box)
    if against:
        return against
    wanted = [(gpu.resource, job.vram_mib) for gpu in gpus]
    wanted.append((box.host.data.resource, job.disk_need.disk_mib))
    promised = tuple((resource, box.promises[resource][0], mib) for resource, mib in wanted)
    return Fit(gpus=gpus, promises=promised, evict=evict, lacking=lacking)


def lacks_only_data_disk(verdict: Fit | list[Refusal], host: Host) -> bool:
    """Return whether eviction alone could make room for the job."""
    if isinstance(verdict, Fit) or len(verdict) != 1:
        return False
    (only,) = verdict
    return isinstance(only, TooLittleDisk) and only.path == host.data.path


# -- timing -----------------------------------------------------------------------------------------


def check_timing(job: JobView, box: BoxState) -> list[Refusal]:
    """Return what is against taking the job now and not later."""
    record, waited, against = job.record, job.waited_seconds, list[Refusal]()
    if (left := pause_seconds(record) - waited) > 0:
        against.append(refusals.RetryDelay(reason=str(record.reason), seconds=round(left)))
    if (left := elsewhere_seconds(record, box.name) - waited) > 0:
        against.append(refusals.FailedHere(reason=str(record.reason), seconds=round(left)))
    if (left := checkpoint_seconds(record, box) - waited) > 0:
        against.append(refusals.CheckpointElsewhere(box=str(record.box), seconds=round(left)))
    return against


def pause_seconds(job: Record) -> float:
    """Return how long the job must have been back in the queue before it is tried again."""
    return job.rest_seconds if job.reason and OUTCOMES[job.reason].next is Next.RETRY_LATER else 0.0


def elsewhere_seconds(job: Record, box: str) -> float:
    """Return how long a job that failed for this box's sake is left to others; a checkpoint here keeps it here."""
    if not job.reason or job.box != box or job.checkpoint:
        return 0.0
    return ELSEWHERE_SECONDS if OUTCOMES[job.reason].elsewhere else 0.0


def checkpoint_seconds(job: Record, box: BoxState) -> float:
    """Return how long a job is left to the box that has its checkpoint."""
    elsewhere = job.checkpoint and job.box and job.box != box.name
    return box.wait_for_box if elsewhere and not handed_over(job) else 0.0


def handed_over(job: Record) -> bool:
    """Return whether no box need be waited for: its box gave the job back or lacks room, and everything is copied."""
    whole = bool(job.checkpoint and job.copied and job.copied.step >= job.checkpoint.step)
    return whole and job.reason in HANDED_OVER


# -- capacity ---------------------------------------------------------------------------------------


def choose_gpus(need: CardNeed, box: BoxState, job: Waiting) -> tuple[tuple[Gpu, ...], list[Refusal]]:
    """Return GPUs for the job, or what is lacking.

    Cards without a job come first, of those the smallest that suffice, of those the ones nearest to one another, of
    those the emptiest.
    """
    cards, full = box.cards(), box.used_slots >= box.slots
    busy = SlotsInUse(used=box.used_slots, slots=box.slots)
    if need.gpus == 0:
        return (), [busy] if full else []
    if lack := shortage(need, cards, box.host.gpu_fault):
        return (), [lack]
    fitting = [
        (len(card.jobs), card.total_mib, -card.free_mib, number)
        for number, card in enumerate(cards)
        # A training that joins another on its card takes no slot.
        if card.is_open(share=need.share) and card.free_mib >= need.vram_mib and not (full and not card.jobs)
        if need.choice.allows_gpu(card.name)
    ]
    if len(fitting) < need.gpus:
        return (), [busy]
    kept = {number: schedule.is_kept_from(job, number, box.reserved, box.name) for *_, number in fitting}
    open_to_it = [one for one in sorted(fitting) if kept[one[-1]] is None]
    if len(open_to_it) < need.gpus:
        return (), [_kept(kept)]
    # Of cards of one size with as many jobs the wiring decides.
    last = open_to_it[need.gpus - 1][:2]
    able = [number for *size, _, number in open_to_it if tuple(size) <= last]
    chosen = card_choice.choose(able, need.gpus, box.host.distances)
    return tuple(box.host.gpus[number] for number in chosen), []


def _kept(by_card: Mapping[int, Reserved | None]) -> Refusal:
    first = next(one for one in by_card.values() if one is not None)
    cards = tuple(sorted(card for card, one in by_card.items() if one is first))
    seconds = None if first.start == UNKNOWN else round(first.start)
    return CardsReserved(job=first.job_id, cards=cards, seconds=seconds)


# -- disks ------------------------------------------------------------------------------------------


def check_data_disk(
    job: JobView, box: BoxState, evictable: Sequence[Item]
) -> tuple[TooLittleDisk | None, tuple[Item, ...]]:
    """Return what the data disk lacks, None if nothing, and the caches whose eviction makes up for it."""
    disk, needed = box.host.data, job.disk_need.disk_mib
    free = box.free_mib(disk.resource, disk.free_mib, "disk_now_mib")
    if needed <= free:
        return None, ()
    evict = choose(evictable, needed - free)
    return _lacking(disk, needed, free, evict or evictable), evict


def check_other_disks(job: JobView, box: BoxState) -> list[Refusal]:
    """Return what the Hub's cache (where it is on a disk of its own), the file systems and the system disk lack."""
    host, against = box.host, list[Refusal]()
    if host.hub is not None and job.disk_need.hub_mib > host.hub.free_mib:
        against.append(_lacking(host.hub, job.disk_need.hub_mib, host.hub.free_mib, ()))
    for disk in (host.data, host.system):
        if disk.free_inodes is not None and disk.free_inodes < INODES_NEEDED:
            against.append(refusals.TooFewInodes(path=disk.path, free=disk.free_inodes, needed=INODES_NEEDED))
    if host.system.free_mib < box.system_reserve_mib:
        lack = refusals.TooLittleSystemDisk(
            free_mib=host.system.free_mib, reserve_mib=box.system_reserve_mib, commands=box.system_commands
        )
        against.append(lack)
    return against


def _lacking(disk: Disk, needed_mib: int, free_mib: int, caches: Sequence[Item]) -> TooLittleDisk:
    return TooLittleDisk(
        needed_mib=needed_mib,
        free_mib=free_mib,
        path=disk.path,
        promised_mib=disk.free_mib - free_mib,
        caches=tuple(item.what for item in caches[: refusals.NAMED_CACHES]),
        cache_count=len(caches),
        cache_mib=sum(item.mib for item in caches),
    )
