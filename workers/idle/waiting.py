"""Which waiting jobs an idle box is needed for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pi0q.jobs.record import Record
from pi0q.queue import capacity, refusals
from pi0q.queue.capacity import CardRoom
from pi0q.queue.refusals import Refusal
from pi0q.workers.host.probe import Gpu


def fitting(
    jobs: Iterable[Record], box: str, gpus: Iterable[Gpu], refused: Mapping[str, Sequence[Refusal]]
) -> list[Record]:
    """Return the jobs that this box could run when it is empty.

    Not those that it refuses for a reason that stays until someone does something; a reason that passes, or none yet,
    means that it may take the job in a moment.
    """
    cards = [
        CardRoom(name=gpu.name, total_mib=gpu.total_mib, measured_mib=gpu.total_mib, free_mib=gpu.total_mib)
        for gpu in gpus
    ]
    return [job for job in jobs if _fits(job, box, cards) and not refusals.lasts(refused.get(job.id, ()))]


def _fits(job: Record, box: str, cards: Sequence[CardRoom]) -> bool:
    need = capacity.needed(job)
    return capacity.not_chosen(need, box, cards) is None and capacity.shortage(need, cards) is None
