"""What a box does while it has no card, by what it announced. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pi0q.queue.refusals import Refusal, WithoutCards


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How far a box without cards is with what waiting jobs read."""

    #: Whether it is a container that was started without its GPU; else a machine that has none.
    no_gpu_mode: bool
    #: Whether it fetches at all (PI0Q_STAGING).
    fetches: bool
    #: Whether anything is left to fetch or to check.
    busy: bool = False
    #: The job whose inputs it fetches, and how far that is; "" for none.
    job: str = ""
    phase: str = ""
    #: Jobs whose inputs are there and verified: some of them, and how many in all; waiting jobs of which they are not.
    ready: tuple[str, ...] = ()
    ready_count: int = 0
    left: int = 0
    #: Why not, of some of those, by job.
    problems: Mapping[str, str] = field(default_factory=dict)

    #: MiB of each card that it has at other times; empty where nobody knows.
    cards_mib: tuple[int, ...] = ()

    @property
    def mode(self) -> str:
        """Return what the box is and does, in words."""
        return WithoutCards(no_gpu_mode=self.no_gpu_mode, fetches=self.fetches).mode

    @property
    def progress(self) -> str:
        """Return how far it is, in words; "" where it does not fetch."""
        if not self.fetches:
            return ""
        if self.job:
            return f"fetching for job {self.job}" + (f" ({self.phase})" if self.phase else "")
        if self.busy:
            return "looking at what waiting jobs need"
        count = self.ready_count
        there = f"the inputs of {count} waiting job{'s' * (count != 1)} are here" if count else ""
        missing = f"those of {self.left} are not" if count else f"no inputs of the {self.left} waiting are here"
        return "; ".join(filter(None, (there, missing if self.left else ""))) or "no job waits"

    def __str__(self) -> str:
        return " · ".join(filter(None, (self.mode, self.progress)))


def read(box: Mapping[str, str]) -> Staging | None:
    """Return what a box announced, as box_fields.py let it pass; None for one with cards, or of an older version."""
    told: Mapping[str, Any] = json.loads(box.get("staging") or "null") or {}
    if not told:
        return None
    return Staging(
        no_gpu_mode=bool(told.get("no_gpu_mode")),
        fetches=bool(told.get("fetches")),
        busy=bool(told.get("busy")),
        job=told.get("job", ""),
        phase=told.get("phase", ""),
        ready=tuple(map(str, told.get("ready", ()))),
        ready_count=told.get("ready_count", 0),
        left=told.get("left", 0),
        problems=told.get("problems", {}),
        cards_mib=tuple(int(card["total_mib"]) for card in told.get("cards", ())),
    )


def about(refusal: Refusal, box: Mapping[str, str], job_id: str) -> Refusal:
    """Return why a box takes no job, with how far it is with what this one reads."""
    staging = read(box) if isinstance(refusal, WithoutCards) else None
    if staging is None or not isinstance(refusal, WithoutCards):
        return refusal
    inputs = "here" if job_id in staging.ready else "coming" if job_id == staging.job else ""
    return replace(refusal, inputs=inputs)
