"""Curves of trainings as they lie on the server, beside the records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pi0q.jobs import curve
from pi0q.jobs.curve import MOST_POINTS, Point

if TYPE_CHECKING:
    from pi0q.queue.store_base import StoreBase


def lines(store: StoreBase, job_id: str) -> list[str]:
    """Return the stored points of a job's curve as they lie there; empty for a job that has none."""
    return [str(line) for line in store.client.lrange(f"{store.prefix}curve:{job_id}", 0, MOST_POINTS - 1)]


def read(store: StoreBase, job_id: str) -> tuple[Point, ...]:
    """Return a job's curve, MOST_POINTS at the most: what pi0q did not write is left out."""
    return curve.read(lines(store, job_id))


def losses(store: StoreBase, job_ids: Sequence[str], count: int) -> dict[str, tuple[float | None, ...]]:
    """Return some losses of several jobs, evenly spread over each curve, both ends among them, in two round trips.

    `count`: of each job at the most; a job without a curve has none. For small pictures: it reads no whole curve.
    """
    keys = {job_id: f"{store.prefix}curve:{job_id}" for job_id in job_ids}
    if not keys:
        return {}
    pipe = store.client.pipeline(transaction=False)
    for key in keys.values():
        pipe.execute_command("LLEN", key)
    lengths = [one if isinstance(one, int) else 0 for one in pipe.execute(raise_on_error=False)]
    places = {
        job_id: [int(place or 0) for place in curve.sampled(range(length), count)]
        for job_id, length in zip(keys, lengths, strict=True)
    }
    pipe = store.client.pipeline(transaction=False)
    for job_id, chosen in places.items():
        for place in chosen:
            pipe.execute_command("LINDEX", keys[job_id], place)
    answers = iter(pipe.execute(raise_on_error=False) if any(places.values()) else ())
    return {job_id: _losses([next(answers) for _ in chosen]) for job_id, chosen in places.items()}


def _losses(answers: Sequence[Any]) -> tuple[float | None, ...]:
    return tuple(point.loss for point in curve.read([one for one in answers if isinstance(one, str)]))
