"""Metrics of the fleet in Prometheus's text format. Pure: a view comes in, text comes out.

Every metric is a gauge of what the view shows now, so that a page that was started later tells the same; sums over the
past are made of the claims that ended lately.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pi0q.jobs.cost import Hold
from pi0q.queue.reading.values import CardView, FleetView, JobView

MIB = 2**20
#: Hours of ended claims (`StoreReads.holds`) that `pi0q_lost_seconds` and `pi0q_start_seconds` are made of.
LATELY_HOURS = 24

Numbers = Iterator[tuple[Sequence[str], float | None]]


def exposition(view: FleetView, holds: Iterable[Hold] = ()) -> bytes:
    """Return the metrics of a view as Prometheus reads them (text format 0.0.4).

    `holds`: the claims that ended in the last LATELY_HOURS.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fleet(view, tuple(holds)))
    return generate_latest(registry)


class _Fleet(Collector):
    def __init__(self, view: FleetView, holds: Sequence[Hold]) -> None:
        self._view, self._holds = view, holds

    def collect(self) -> Iterator[GaugeMetricFamily]:
        view = self._view
        yield _gauge("pi0q_jobs", "Jobs by what they do.", ["state"], _by_state(view))
        yield _gauge("pi0q_queue_wait_seconds", "Longest wait of a queued job.", ["priority"], _waits(view))
        for name, (text, value) in JOBS.items():
            numbers: Numbers = (((job.id, job.name, job.box), value(job, view.now_ms)) for job in view.running)
            yield _gauge(f"pi0q_job_{name}", text, ["job", "name", "box"], numbers)
        for name, (text, measured) in CARDS.items():
            told: Numbers = (((card.box, str(card.number)), measured(card)) for card in view.cards)
            yield _gauge(f"pi0q_card_{name}", text, ["box", "card"], told)
        boxes = view.boxes
        up: Numbers = (((box.name, box.status.value), 1.0) for box in boxes)
        yield _gauge("pi0q_box", "Each box with its status, always 1.", ["box", "status"], up)
        free: Numbers = (((box.name,), float(box.disk_free_mib * MIB)) for box in boxes)
        yield _gauge("pi0q_box_disk_free_bytes", "Free space of the data disk.", ["box"], free)
        size: Numbers = (((box.name,), float(box.disk_mib * MIB) if box.disk_mib else None) for box in boxes)
        yield _gauge("pi0q_box_disk_bytes", "Size of the data disk.", ["box"], size)
        lost = "Seconds that claims of the last day lost, by the state that their job was in afterwards."
        yield _gauge("pi0q_lost_seconds", lost, ["cause"], _lost(self._holds))
        start = "Seconds from a claim to its trainer, median of the claims that ended in the last day."
        yield _gauge("pi0q_start_seconds", start, [], _starts(self._holds))


def _gauge(name: str, text: str, labels: Sequence[str], numbers: Numbers) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in numbers:
        # What is not known is left out: a gap in a graph, and no zero.
        if number is not None:
            family.add_metric(list(values), number)
    return family


def _by_state(view: FleetView) -> Numbers:
    counts = view.counts
    outside = counts.live - counts.active - counts.queued
    numbers = {"running": counts.active, "queued": counts.queued, "held": outside, "ended": counts.ended}
    return (((state,), float(max(0, number))) for state, number in numbers.items())


def _waits(view: FleetView) -> Numbers:
    longest: dict[str, float] = {}
    for job in view.queue:
        waited = max(0.0, view.now_ms - (job.queued_ms or job.created_ms)) / 1000
        longest[job.priority] = max(waited, longest.get(job.priority, 0.0))
    return (((priority,), seconds) for priority, seconds in sorted(longest.items()))


def _lost(holds: Iterable[Hold]) -> Numbers:
    lost: dict[str, float] = {}
    for hold in holds:
        lost[hold.after] = lost.get(hold.after, 0.0) + hold.lost_hours * 3600
    return (((cause,), seconds) for cause, seconds in sorted(lost.items()) if seconds)


def _starts(holds: Iterable[Hold]) -> Numbers:
    spans = [(hold.ran_ms - hold.from_ms) / 1000 for hold in holds if hold.ran_ms >= hold.from_ms > 0]
    return iter([((), statistics.median(spans))] if spans else [])


def _age(job: JobView, now_ms: int) -> float | None:
    saved = job.checkpoint
    return max(0.0, now_ms - saved.saved_ms) / 1000 if saved and saved.saved_ms else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


#: Metrics of running jobs: what each is, and its value.
JOBS: Mapping[str, tuple[str, Callable[[JobView, int], float | None]]] = {
    "progress_ratio": ("Share of the training that is done, 0 to 1.", lambda job, _: job.progress),
    "step": ("Step of the training.", lambda job, _: job.step),
    "loss": ("Loss of the last step.", lambda job, _: _finite(job.loss)),
    "step_seconds": ("Seconds a step, over the last steps.", lambda job, _: job.step_seconds),
    "eta_seconds": ("Seconds to the end, as of the last report.", lambda job, _: job.eta_seconds),
    "checkpoint_age_seconds": ("Age of the newest verified checkpoint.", _age),
}
#: Metrics of cards.
CARDS: Mapping[str, tuple[str, Callable[[CardView], float | None]]] = {
    "memory_bytes": ("VRAM of the card.", lambda card: card.total_mib * MIB),
    "memory_used_bytes": ("VRAM in use, by whomever.", lambda card: card.used_mib * MIB),
    "memory_promised_bytes": ("VRAM that jobs were promised and do not use yet.", lambda card: card.promised_mib * MIB),
    "utilisation_ratio": ("Share of the last second in which the card worked, 0 to 1.", lambda card: card.utilisation),
    "temperature_celsius": ("Temperature of the chip.", lambda card: card.temperature),
    "jobs": ("Jobs that the card is promised to.", lambda card: len(card.jobs)),
}
