"""Flags of LeRobot that came after the newest release with a table, and what has them: lerobot/later.tsv.

One line a flag, or a section (`ema.*`): its name, and the release that has it or `main` for LeRobot's main branch. A
line goes when the table of that release comes; tests/jobs/schema/test_later_flags.py holds it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

from pi0q.jobs.schema import lerobot_tables


@cache
def later() -> dict[str, str]:
    """Return what has a flag, by its name or its section's pattern."""
    text = (lerobot_tables.DIRECTORY / "later.tsv").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in text.splitlines())
    return {pattern: f"release {since}" if since[:1].isdigit() else f"{since} branch" for pattern, since in pairs}


def told(name: str) -> str | None:
    """Return the fault of a flag that only a later LeRobot has, to follow its name; None for any other."""
    pattern = next((one for one in later() if fnmatchcase(name, one) or name == one.removesuffix(".*")), None)
    if pattern is None:
        return None
    newest = [*lerobot_tables.RELEASES.values()][-1]
    return f"is not taken yet: LeRobot {newest} has no {pattern}; LeRobot's {later()[pattern]} has. Leave it out"
