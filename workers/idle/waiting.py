"""Which waiting jobs an idle box is needed for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pi0q.jobs.record import Record
from pi0q.queue import capacity, refusals
from pi0q.queue.capacity import CardRoom
from pi0q.queue.refusals import Refusal


def fitting(
    jobs: Iterable[Record], box: str, cards: Iterable[tuple[str, int]], refused: Mapping[str, Sequence[Refusal]]
) -> list[Record]:
    """Return the jobs that this box could run when it is empty. `cards`: name and MiB of each.

    Not those that it refuses for a reason that stays until someone does something; a reason that passes, or none yet,
    means that it may take the job in a moment.
    """
    empty = [CardRoom(name=name, total_mib=mib, measured_mib=mib, free_mib=mib) for name, mib in cards]
    return [job for job in jobs if _fits(job, box, empty) and not refusals.lasts(refused.get(job.id, ()))]


def _fits(job: Record, box: str, cards: Sequence[CardRoom]) -> bool:
    need = capacity.needed(job)
    return capacity.not_chosen(need, box, cards) is None and capacity.shortage(need, cards) is None
