"""What a user reads of a trainer's end: what happened and what cures it, with the numbers of the case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pi0q.jobs.failures import facts
from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.evidence import Evidence
from pi0q.jobs.failures.remedies import WORDS
from pi0q.jobs.failures.wording import gist, gpu_words, plain, signal_name, told, used, when
from pi0q.jobs.outcome import OUTCOMES, Reason


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why a trainer ended, for the record."""

    reason: Reason
    #: What happened.
    detail: str
    #: What to do about it.
    fix: str
    #: The trainer's, negative for a signal.
    exit_code: int = 0
    #: Each thing that was seen, in words: exit, exception, memory, GPUs.
    seen: tuple[str, ...] = ()
    #: Two failures of the same name are one cause; "" where that can't be said.
    same: str = ""
    #: Where the stacks of a hung trainer lie, "" if there are none.
    stacks: str = ""
    #: All that was seen, as values: see jobs/failures/facts.py.
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record's field `evidence`, and in it `facts`, which the record keeps apart."""
        record: dict[str, Any] = {
            "reason": self.reason.value,
            "cure": self.fix,
            "seen": list(self.seen),
            "same": self.same,
        }
        record |= {"facts": dict(self.facts)} if self.facts else {}
        return record | ({"stacks": self.stacks} if self.stacks else {})


def judge(evidence: Evidence) -> Diagnosis:
    """The class of this end and what to say of it."""
    reason = diagnose(evidence)
    detail, fix = WORDS[reason](evidence) if reason in WORDS else ("", "")
    return Diagnosis(
        reason=reason,
        exit_code=evidence.exit_code,
        detail=detail or plain(evidence),
        fix=fix or OUTCOMES[reason].fix,
        seen=tuple(_seen(evidence)),
        same=_same(evidence),
        facts=facts.dump(evidence),
    )


def with_stacks(found: Diagnosis, *, path: str, where: str) -> Diagnosis:
    """The same with where a hung trainer stood, and the file that has all of its stacks."""
    place, more = f"; it stood in {where}" if where else "", f" All stacks are in {path} on the box." if path else ""
    return replace(found, detail=found.detail + place, stacks=path, fix=found.fix + more)


def with_rank(found: Diagnosis, rank: int, count: int) -> Diagnosis:
    """The same with the rank that failed first, where the job trains on several GPUs."""
    if count == 1 or not found.detail or found.reason in (Reason.FINISHED, Reason.STOPPED_BY_BOX):
        return found
    return replace(found, detail=f"rank {rank} of {count}: {found.detail}")


def _seen(evidence: Evidence) -> list[str]:
    """Return the evidence as short phrases."""
    raised = evidence.raised()
    ended = signal_name(evidence.signal) if evidence.signal else f"exit code {evidence.exit_code}"
    memory = evidence.memory
    kills = f", {memory.oom_kills} killed by the kernel for it" if memory.oom_kills else ""
    most = f", at most {memory.peak_mib / 1024:.1f}" if memory.peak_mib else ""
    return [
        ended + when(evidence),
        *([told(raised)] if raised else []),
        *(told(cause) for cause in evidence.behind()[:2]),
        *([f"memory{used(evidence)[1:]}{most}{kills}"] if used(evidence) else []),
        *([f"VRAM at most {evidence.vram_peak_mib / 1024:.1f} GiB"] if evidence.vram_peak_mib else []),
        *([f"/dev/shm {evidence.shm_mib} MiB"] if evidence.shm_mib is not None and evidence.shm_mib < 1024 else []),
        *gpu_words(evidence),
    ]


def _same(evidence: Evidence) -> str:
    """Names a failure by its exception, its text without numbers, and its step."""
    raised = evidence.raised()
    if not raised or evidence.signal or raised.kind == "SystemExit":
        return ""
    return f"{raised.kind}: {re.sub(r'0x[0-9a-f]+|[0-9]+', '#', gist(raised.text))[:120]} @ {evidence.step}"
