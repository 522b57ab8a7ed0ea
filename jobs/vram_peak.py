"""Measured peak of a training's VRAM: what it was, where, and what the next job of that shape needs by it. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from pi0q.jobs.record_codecs import BOX, ID, Codec, json_of, mapping, whole

#: CUDA's context, and its libraries' handles, which torch's own count leaves out. MiB; benchmarks/2026-11-29-vram.md.
CONTEXT_MIB = 850
#: A need is this much above a measured peak: the context differs by card and driver by some 100 MiB (a guess: peaks of
#: one shape were not compared between cards), and the allocator's fragments from run to run.
MARGIN = 1.03
#: The same where a job of that shape ran out of memory: it did not get as far as its peak.
OOM_MARGIN = 1.1
#: Steps after which what a trainer held counts as its peak: the optimizer's state comes with the first.
LEAST_STEPS = 20
#: MiB that no card has: such a number in the store is not believed.
MOST_MIB = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What trainings of one shape held of each GPU."""

    #: Most that torch held, without CUDA's context, MiB; 0 where none was measured.
    peak_mib: int = 0
    #: What did not suffice a job that ran out of memory since, MiB; 0 where none did.
    oom_mib: int = 0
    #: The job that it was measured on, and its box.
    job: str
    box: str
    #: When, in milliseconds since 1970 on the server's clock.
    at_ms: int

    def need_mib(self, estimate_mib: int) -> int:
        """Return the VRAM that a job of this shape needs, MiB; after an out-of-memory never less than the estimate."""
        measured = math.ceil((self.peak_mib + CONTEXT_MIB) * MARGIN) if self.peak_mib else 0
        if not self.oom_mib:
            return measured or estimate_mib
        return max(measured or estimate_mib, math.ceil(self.oom_mib * OOM_MARGIN))

    def sentence(self, estimate_mib: int) -> str:
        """Return where the number is from: `measured on job abc (box-a, 2026-11-28); the estimate said 73.9 GiB`."""
        day = datetime.fromtimestamp(self.at_ms / 1000, timezone.utc).date()
        told = f"job {self.job} ({self.box}, {day})"
        said = f"the estimate said {estimate_mib / 1024:.1f} GiB"
        if self.oom_mib:
            return f"a job of this shape ran out of memory with {self.oom_mib / 1024:.1f} GiB, {told}; {said}"
        return f"measured on {told}; {said}" if self.peak_mib else f"estimated; {said}"

    def to_json(self) -> dict[str, Any]:
        """Return what the store and a record keep."""
        return asdict(self)


def worst(peaks: list[Peak]) -> Peak | None:
    """Return the peak of which a job needs most; None of none."""
    return max(peaks, key=lambda peak: (peak.need_mib(0), peak.at_ms), default=None)


def read(text: str) -> Peak:
    """Return the peak in a text of the store. Raises ValueError, KeyError or TypeError for what pi0q does not write."""
    found = mapping(json_of(text))
    if set(found) != set(Peak.__dataclass_fields__):
        raise ValueError
    return Peak(
        peak_mib=whole(found["peak_mib"], most=MOST_MIB),
        oom_mib=whole(found["oom_mib"], most=MOST_MIB),
        job=ID.read(found["job"]),
        box=BOX.read(found["box"]),
        at_ms=whole(found["at_ms"], most=2**45),
    )


PEAK = Codec(read, "a measured peak as JSON", lambda peak: peak and peak.to_json())
