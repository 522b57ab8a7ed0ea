"""`python -m tests.fuzz`: tries the properties with new inputs for some minutes; see `make fuzz`."""

from __future__ import annotations

import argparse
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.properties import PROPERTIES, Property

#: Inputs between two looks at the clock.
EXAMPLES = 300


class Tried:
    """What came of one property so far."""

    def __init__(self, one: Property) -> None:
        self.one, self.inputs, self.seconds, self.slowest, self.fault = one, 0, 0.0, 0.0, ""

    def check(self, value: object) -> None:
        began = time.process_time()
        try:
            self.one.check(value)
        finally:
            self.inputs += 1
            self.slowest = max(self.slowest, time.process_time() - began)

    def round(self, number: int) -> None:
        """Try some inputs that follow from this seed; a fault is kept with its smallest input."""
        began = time.monotonic()
        bounded = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        try:
            seed(number)(bounded(given(self.one.inputs)(self.check)))()
        except Exception as error:
            notes = "\n".join(getattr(error, "__notes__", ()))
            self.fault = f"seed {number}: {''.join(traceback.format_exception_only(error)).strip()}\n{notes}"
        self.seconds += time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes until the time is over; 0 if every property held."""
    options = argparse.ArgumentParser(prog="make fuzz")
    options.add_argument("--minutes", type=float, default=10.0, help="for how long")
    options.add_argument("--seed", type=int, default=1, help="of the first round; each further round has the next")
    options.add_argument("--report", type=Path, help="write the report there as well")
    chosen = options.parse_args(argv)
    tried, number, until = [Tried(one) for one in PROPERTIES], chosen.seed, time.monotonic() + chosen.minutes * 60
    while time.monotonic() < until:
        for each in tried:
            if not each.fault and time.monotonic() < until:
                each.round(number)
        number += 1
    text = report(tried, first=chosen.seed, last=number - 1, minutes=chosen.minutes)
    print(text, end="")
    if chosen.report:
        chosen.report.write_text(text)
    return int(any(each.fault for each in tried))


def report(tried: Sequence[Tried], *, first: int, last: int, minutes: float) -> str:
    """Return the dated report, as Markdown."""
    rows = [
        f"| {each.one.name} | {each.inputs:,} | {each.seconds:.0f} s | {each.slowest * 1000:.0f} ms "
        f"| {'fault' if each.fault else 'holds'} |"
        for each in tried
    ]
    faults = [f"\n## {each.one.name}\n\n```\n{each.fault}\n```" for each in tried if each.fault]
    return "\n".join(
        [
            f"# Fuzzing, {time.strftime('%Y-%m-%d')}",
            "",
            f"`make fuzz MINUTES={minutes:g} SEED={first}`: rounds {first} to {last}, "
            f"Python {platform.python_version()}, hypothesis {version('hypothesis')}.",
            "What each property says stands in [tests/fuzz/properties.py](../tests/fuzz/properties.py). "
            "Slowest: CPU time of one input.",
            "",
            "| property | inputs | time | slowest | result |",
            "|---|---|---|---|---|",
            *rows,
            *faults,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
