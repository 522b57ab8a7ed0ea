"""How long the records of ended jobs are kept (`PI0Q_KEEP_ENDED`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"(\d{1,9}) ?(d|days?|jobs?)?")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Limits for ended jobs; None stands for no limit. A job beyond either limit may be removed."""

    #: Days after a job's end.
    days: int | None = 90
    #: Ended jobs in all; the oldest go first.
    jobs: int | None = 10_000

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Read `90d`, `10000 jobs`, both with a comma between, or `forever`. Raises ValueError with the right form."""
        if text.strip() in ("forever", "off"):
            return cls(days=None, jobs=None)
        days: int | None = None
        jobs: int | None = None
        for part in text.split(","):
            match = _PART.fullmatch(part.strip())
            if not match or not match[2]:
                raise ValueError("it must look like 90d, or 10000 jobs, or 90d,10000 jobs, or forever")
            if match[2].startswith("d"):
                days = int(match[1])
            else:
                jobs = int(match[1])
        return cls(days=days, jobs=jobs)

    def __str__(self) -> str:
        parts = [
            f"{number} {unit}{'' if number == 1 else 's'}"
            for number, unit in ((self.days, "day"), (self.jobs, "job"))
            if number is not None
        ]
        return " or ".join(parts) or "no limit"
