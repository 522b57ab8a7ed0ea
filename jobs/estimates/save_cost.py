"""Limit the time that saves cost: saves by the clock come less often where a save is slow; saves by step get a note."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pi0q.jobs.record import Record
from pi0q.jobs.schema.defaults import SAVE_FREQ
from pi0q.jobs.state import OWNED

#: The part of the time that saves by the clock may take. The trainer hook (pi0q_trainer/cost.py) has the same number.
SHARE = 0.02


def save_freq(spec: Mapping[str, Any]) -> int:
    """Steps between saves of a job, by the spec in its record; LeRobot's own number where the file has none."""
    return int(dict(spec.get("train") or {}).get("save_freq") or SAVE_FREQ)


def every_seconds(spec: Mapping[str, Any]) -> float | None:
    """Seconds between saves by the clock, by the spec in a record, which has `1800.0s`; None for none."""
    every = dict(spec.get("checkpoints") or {}).get("every")
    return float(str(every).removesuffix("s")) if every else None


def interval(every_seconds: float, save_seconds: float | None) -> float:
    """Seconds from the end of a save to the next one by the clock, where each takes that long."""
    return max(every_seconds, (save_seconds or 0.0) * (1 - SHARE) / SHARE)


def stretched(every_seconds: float | None, save_seconds: float | None) -> str:
    """Return the note on saves by the clock that come less often than requested; "" for none."""
    if not every_seconds or not save_seconds or interval(every_seconds, save_seconds) <= every_seconds:
        return ""
    return (
        f"a save takes {save_seconds:.1f} s, so saves by the clock come every "
        f"{interval(every_seconds, save_seconds):.0f} s instead of every {every_seconds:.0f} s (checkpoints.every): "
        f"no more than {SHARE:.0%} of the time"
    )


def by_step(save_freq: int, *, save_seconds: float | None, step_seconds: float | None) -> float:
    """The part of the time that saves each `save_freq` steps take; 0 where that is not known yet."""
    if not save_seconds or not step_seconds or save_freq < 1:
        return 0.0
    return save_seconds / (save_seconds + save_freq * step_seconds)


def dear(save_freq: int, *, save_seconds: float | None, step_seconds: float | None) -> str:
    """What a user reads whose own `save_freq` costs more than SHARE; "" where it does not."""
    share = by_step(save_freq, save_seconds=save_seconds, step_seconds=step_seconds)
    if share <= SHARE or not save_seconds or not step_seconds:
        return ""
    enough = math.ceil(save_seconds * (1 - SHARE) / SHARE / step_seconds)
    return (
        f"a save takes {save_seconds:.1f} s, so save_freq: {save_freq} costs {share:.0%} of the time; pi0q "
        f"keeps it. From {enough} on it costs less than {SHARE:.0%}; checkpoints.every also saves by the clock"
    )


def words(spec: Mapping[str, Any], save_seconds: float | None, step_seconds: float | None) -> list[str]:
    """What a user should know of the saves of a job: of those by the clock, and of those by step; "" for nothing."""
    return [
        stretched(every_seconds(spec), save_seconds),
        dear(save_freq(spec), save_seconds=save_seconds, step_seconds=step_seconds),
    ]


def shown(job: Record) -> list[str]:
    """What `pi0q show` says of a job's saves."""
    lines = [f"{job.save_seconds:.1f} s each"] if job.save_seconds else []
    lines += filter(None, words(job.spec, job.save_seconds, job.step_seconds))
    if job.save_wish > job.save_served and job.state in OWNED:
        lines.append(f"asked for at step {job.save_at}, not made yet")
    if job.pinned_steps:
        lines.append(f"pinned: step {', '.join(map(str, job.pinned_steps))}")
    return lines
