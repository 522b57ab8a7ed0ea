"""The waiting jobs that a box has found and judged: it reads the record of each once a change, not once a look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pi0q.jobs.record import Record
from pi0q.queue.refusals import DatasetLook, PreflightRuns, Refusal
from pi0q.queue.reservation import Plan
from pi0q.queue.schedule import Waiting, shares, turn
from pi0q.queue.schedule_view import rank_of, waiting_job
from pi0q.queue.waiting_index import FoundJob, ScanPosition

#: Jobs that are kept, the first in the queue; those behind are read again once the box may have got room for them.
KEPT = 1000
#: Refusals that a box announces, of the first jobs in the queue.
ANNOUNCED = 50
#: Jobs at the head that are judged anew after `AGAIN_SECONDS`: a refusal may end by time, or by a file that comes.
NEAR, AGAIN_SECONDS = 50, 9.0
#: Seconds after which all others are.
FAR_SECONDS = 60.0
#: Refusals that end by themselves in a moment.
_UNDER_WAY = (PreflightRuns, DatasetLook)
#: MiB of disk that must have come free before jobs that are no longer kept are looked for again.
DISK_STEP_MIB = 1024


@dataclass
class JudgedJob:
    """A waiting job that fits the box's GPUs, or did when it was found."""

    record: Record
    found: FoundJob
    #: What its turn depends on.
    turn: Waiting
    #: Why it was not claimed at the last judgement; empty before the first, and where only other boxes were faster.
    refusals: tuple[Refusal, ...] = ()
    judged_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What else of a box decides: when it changes, every job is judged anew."""

    #: Unpromised MiB of the GPUs, the most first.
    free: tuple[int, ...]
    #: The jobs on each GPU, in the order of the measurement.
    taken: tuple[tuple[str, ...], ...] = ()
    #: The jobs that cards are kept for, with these cards.
    kept: tuple[tuple[str, tuple[int, ...]], ...] = ()
    disk_mib: int
    #: The trainer's environment, and how often its checks brought something new.
    trainer: object

    def same(self, other: Circumstances) -> bool:
        """Return whether no judgement can differ, but for a few MiB of disk."""
        near = abs(self.disk_mib - other.disk_mib) < DISK_STEP_MIB
        return near and (self.free, self.taken, self.kept, self.trainer) == (
            other.free,
            other.taken,
            other.kept,
            other.trainer,
        )

    def better(self, than: Circumstances) -> bool:
        """Return whether jobs that lacked something other than VRAM may fit now."""
        return self.disk_mib >= than.disk_mib + DISK_STEP_MIB or self.trainer != than.trainer


class JudgedJobs:
    """The jobs that one box has found."""

    def __init__(self) -> None:
        self.position = ScanPosition()
        #: What comes first beside the order of the queue.
        self.plan = Plan()
        #: Jobs that come before all others.
        self.first: set[str] = set()
        #: When the box last asked which of them still wait, seconds of a monotonic clock.
        self.checked_at = -FAR_SECONDS
        self._jobs: dict[str, JudgedJob] = {}
        self._seen: Circumstances | None = None
        #: The circumstances in which jobs were found that are not kept; None where all are.
        self._forgot: Circumstances | None = None

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def in_order(self) -> list[JudgedJob]:
        """Return the jobs in their turns (queue/schedule.py), those of `first` before all others."""
        plan = self.plan
        ordered = sorted(self._jobs.values(), key=lambda job: turn(job.turn, plan.pressed, plan.long))
        share = {} if plan.held is None else shares((job.turn for job in ordered), plan.held)

        def place(job: JudgedJob) -> tuple[bool, int, int]:
            return job.found.id not in self.first, job.turn.rank, share.get(job.found.id, 0)

        return sorted(ordered, key=place)

    @property
    def ids(self) -> list[str]:
        return [job.found.id for job in self.in_order()]

    @property
    def refusals(self) -> dict[str, list[Refusal]]:
        """Return why the first of these jobs are not taken here, by job."""
        return {job.found.id: list(job.refusals) for job in self.in_order()[:ANNOUNCED] if job.refusals}

    def unread(self, found: Iterable[FoundJob]) -> dict[str, FoundJob]:
        """Return those whose records have to be read: unknown, or changed since."""
        new = dict[str, FoundJob]()
        for one in found:
            known = self._jobs.get(one.id)
            if known is None or known.found.change != one.change:
                new[one.id] = one
            else:
                known.found = one
        return new

    def add(self, records: Iterable[Record], found: dict[str, FoundJob]) -> None:
        """Keep these jobs, to be judged; `found` says where each lies in the queue."""
        for record in records:
            where = found[record.id]
            self._jobs[record.id] = JudgedJob(
                record=record, found=where, turn=waiting_job(record, where.place, rank_of(where.place))
            )
        for job in self.in_order()[KEPT:]:
            if job.judged_at is not None:
                del self._jobs[job.found.id]
                self._forgot = self._forgot or self._seen

    def drop(self, job_ids: Iterable[str]) -> None:
        """Forget jobs that wait no more."""
        for job_id in job_ids:
            self._jobs.pop(job_id, None)
            self.first.discard(job_id)

    def clear(self) -> None:
        """Forget all jobs: none waits."""
        self.drop(list(self._jobs))
        self._forgot = None

    def notice(self, now: Circumstances) -> None:
        """Have all jobs judged anew if anything changed that decides."""
        if self._seen is None or not now.same(self._seen):
            self._seen = now
            self.expire()
        if self._forgot and now.better(self._forgot):
            # What is not kept is found again, from the head of the queue on.
            self.position, self._forgot = ScanPosition(), None

    def expire(self) -> None:
        """Have all jobs judged anew."""
        for job in self._jobs.values():
            job.judged_at = None

    def due(self, now: float) -> list[JudgedJob]:
        """Return the jobs that are to be judged now, in order. `now`: seconds of a monotonic clock."""
        return [job for number, job in enumerate(self.in_order()) if _is_due(job, now, near=number < NEAR)]


def _is_due(job: JudgedJob, now: float, *, near: bool) -> bool:
    if job.judged_at is None or any(isinstance(one, _UNDER_WAY) for one in job.refusals):
        return True
    ends = [float(seconds) for one in job.refusals if (seconds := getattr(one, "seconds", None)) is not None]
    return now - job.judged_at >= min([AGAIN_SECONDS if near else FAR_SECONDS, *ends])


def judged(job: JudgedJob, refusals: Sequence[Refusal], now: float) -> None:
    """Note that the job was refused at this time."""
    job.refusals, job.judged_at = tuple(refusals), now
