"""What a box says of switching itself off, as it announces it and keeps it on its disk, and its text. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.printable import printable
from pi0q.queue.idle_policy import LONGEST, Phase, minutes

#: What the worker writes into PI0Q_HOME, for `pi0q box status`.
STATUS_FILE = "idle.json"
#: Reasons that are told, and characters of each.
MOST_REASONS, LONGEST_REASON = 4, 200


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """How a box stands."""

    phase: Phase
    #: Seconds until it is switched off, where that is to come.
    seconds: int = 0
    #: Why it stays on.
    why: Sequence[str] = ()
    #: How the last try to switch it off failed; "" for none.
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the outlook as `of_json` reads it, within its bounds."""
        why = [one[:LONGEST_REASON] for one in self.why[:MOST_REASONS]]
        return {
            "phase": self.phase.value,
            "seconds": self.seconds,
            "why": why,
            "failed": self.failed[: 2 * LONGEST_REASON],
        }

    @classmethod
    def of_json(cls, raw: Any) -> Outlook:
        """Return what a box said; anyone may have written it. Raises ValueError, TypeError, KeyError."""
        if not isinstance(raw, Mapping):
            raise ValueError("it is no object")
        seconds, why, failed = raw.get("seconds", 0), raw.get("why", []), raw.get("failed", "")
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds <= 2 * LONGEST:
            raise ValueError("its seconds are none")
        if not isinstance(why, list) or len(why) > MOST_REASONS or not isinstance(failed, str):
            raise ValueError("its reasons are none")
        if not all(isinstance(one, str) and len(one) <= LONGEST_REASON for one in why):
            raise ValueError("its reasons are none")
        told = tuple(printable(one, lines=False) for one in why)
        return cls(
            phase=Phase(raw["phase"]),
            seconds=seconds,
            why=told,
            failed=printable(failed, lines=False)[: 2 * LONGEST_REASON],
        )

    def text(self, *, ago: float, now: float) -> str:
        """Return the outlook as people read it. `ago`: seconds since it was said; `now`: seconds since 1970."""
        failed = f"could not switch itself off: {self.failed}" if self.failed else ""
        if self.phase is Phase.OFF:
            return f"off by itself since {time.strftime('%Y-%m-%d %H:%M', time.localtime(now - ago))}"
        if self.phase is Phase.NEEDED:
            reason = f"stays on: {'; '.join(self.why)}" if self.why else ""
            return " · ".join(filter(None, (failed, reason)))
        leaves = f"switches itself off in {minutes(max(0.0, self.seconds - ago))}"
        return " · ".join(filter(None, (failed, leaves)))
