"""What a box without cards has fetched for waiting jobs, as it announces it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Jobs that are named, of those whose inputs are here and of those with a problem; characters of a problem.
MOST_NAMED, MOST_PROBLEMS, LONGEST = 20, 5, 200


@dataclass(frozen=True, kw_only=True)
class StagingState:
    """How far the fetching is."""

    #: Whether anything is still to be fetched or checked: the box is no idle one.
    busy: bool = True
    #: The job whose inputs are being fetched, and how far that is; "" for none.
    job: str = ""
    phase: str = ""
    #: Jobs whose inputs are here and verified.
    ready: tuple[str, ...] = ()
    #: Waiting jobs whose inputs are not here yet.
    left: int = 0
    #: Why the inputs of some of those are not fetched now, by job.
    problems: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, *, no_gpu_mode: bool, fetches: bool, cards: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the field that a box announces; `cards`: those that it has at other times."""
        told: dict[str, Any] = {"no_gpu_mode": no_gpu_mode, "fetches": fetches, "cards": list(cards)}
        if fetches:
            problems = dict(list(self.problems.items())[:MOST_PROBLEMS])
            told |= {
                "busy": self.busy,
                "job": self.job,
                "phase": self.phase,
                "ready": self.ready[:MOST_NAMED],
                "ready_count": len(self.ready),
                "left": self.left,
                "problems": {job: text[:LONGEST] for job, text in problems.items()},
            }
        return json.dumps(told, ensure_ascii=False)
