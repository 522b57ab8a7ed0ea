"""Curve of a running training: built from the hook's events, sent to the server beside the reports."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import redis

from pi0q.jobs import curve as curves
from pi0q.jobs.curve import Curve, Point
from pi0q.queue import stored_curves
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.workers.runs.listener import TrainerListener

if TYPE_CHECKING:
    from pi0q.workers.runs.ownership import Ownership

#: Seconds between two sends of what is new.
SEND_SECONDS = 5.0
#: Events after which the next step does not follow the last one at once.
BREAKS = frozenset({"ready", "saving", "saved", "compiling"})


class TrainingCurve(TrainerListener):
    """Takes the trainer's events; the reporter's thread sends. Nothing of it may hold up or end a run."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._curve = Curve()
        #: Step and time of the event before, None where something came between.
        self._before: tuple[int, float] | None = None
        #: What the server has; None before the curve of earlier runs was read.
        self._sent: Sequence[str] | None = None
        self._sent_at = -SEND_SECONDS

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Add a step's numbers. What is no number is left out: a trainer can say anything of itself."""
        if event.get("event") in BREAKS:
            self._before = None
        if event.get("event") != "step":
            return
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
            step, at = int(event["step"]), float(event["t"])
            before, self._before = self._before, (step, at)
            if event.get("loss") is None or step < 0:
                return
            seconds = (at - before[1]) / (step - before[0]) if before and step > before[0] and at > before[1] else None
            point = Point(step, _number(event["loss"]), _number(event.get("lr")), seconds)
            with self._lock:
                self._curve.add(point)

    def send(self, ownership: Ownership, *, over: bool = False) -> None:
        """Send what is new, once in SEND_SECONDS, or at once where the run is `over`."""
        now = self._clock()
        if now - self._sent_at < SEND_SECONDS and not over:
            return
        with self._lock:
            points = self._curve.points
        if not points:
            return
        self._sent_at = now
        # What is lost now goes with the next send; who has lost the job learns that by its report.
        with contextlib.suppress(redis.RedisError, OwnershipLost):
            if self._sent is None:
                self._sent = self._join(ownership)
                with self._lock:
                    points = self._curve.points
            self._put(ownership, curves.write(points), self._sent)

    def _put(self, ownership: Ownership, lines: Sequence[str], sent: Sequence[str]) -> None:
        stay = next((at for at, (one, other) in enumerate(zip(lines, sent, strict=False)) if one != other), None)
        stay = min(len(lines), len(sent)) if stay is None else stay
        if stay == len(lines) == len(sent):
            return
        known = ownership.put_curve(stay, lines[stay:])
        # A server with older data has fewer: it gets all of them next time.
        self._sent = lines if known == len(lines) else ()

    def _join(self, ownership: Ownership) -> Sequence[str]:
        """Put the curve of earlier runs, or of the job that this one continues, before it; return what is stored."""
        job_id, known = ownership.ledger.job_id, ownership.known
        if known.epoch <= 1 and not known.continues:
            return ()
        stored = stored_curves.lines(ownership.store, job_id)
        earlier = stored or (stored_curves.lines(ownership.store, known.continues) if known.continues else ())
        with self._lock:
            joined = Curve.of(curves.read(earlier))
            for point in self._curve.points:
                joined.add(point)
            self._curve = joined
        return stored


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
