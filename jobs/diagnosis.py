"""What a user reads of a trainer's end: what happened and what cures it, with the numbers of the case."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from pi0q.jobs.evidence import Evidence, unwrapped
from pi0q.jobs.outcome import OUTCOMES, Reason
from pi0q.jobs.phrases import first_line, gpu_words, plain, short, signal_name, used, when
from pi0q.jobs.remedies import WORDS
from pi0q.jobs.symptoms import diagnose


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why a trainer ended, for the record."""

    reason: Reason
    #: What happened.
    detail: str
    #: What to do about it.
    cure: str
    #: The trainer's, negative for a signal.
    exit_code: int = 0
    #: Each thing that was seen, in words: exit, exception, memory, GPUs.
    seen: tuple[str, ...] = ()
    #: Two failures of the same name are one cause; "" where that can't be said.
    same: str = ""
    #: Where the stacks of a hung trainer lie, "" if there are none.
    stacks: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record's field `evidence`."""
        told = {"reason": self.reason.value, "cure": self.cure, "seen": list(self.seen), "same": self.same}
        return told | ({"stacks": self.stacks} if self.stacks else {})


def judge(evidence: Evidence) -> Diagnosis:
    """The class of this end and what to say of it."""
    reason = diagnose(evidence)
    told, cure = WORDS[reason](evidence) if reason in WORDS else ("", "")
    return Diagnosis(
        reason=reason,
        exit_code=evidence.exit_code,
        detail=told or plain(evidence),
        cure=cure or OUTCOMES[reason].cure,
        seen=tuple(_seen(evidence)),
        same=_same(evidence),
    )


def with_stacks(found: Diagnosis, *, path: str, where: str) -> Diagnosis:
    """The same with where a hung trainer stood, and the file that has all of its stacks."""
    place, more = f"; it stood in {where}" if where else "", f" All stacks are in {path} on the box." if path else ""
    return replace(found, detail=found.detail + place, stacks=path, cure=found.cure + more)


def _seen(evidence: Evidence) -> list[str]:
    """Everything that was seen, each in a few words."""
    kind, text = unwrapped(*evidence.spoken())
    ended = signal_name(evidence.signal) if evidence.signal else f"exit code {evidence.exit_code}"
    memory = evidence.memory
    kills = f", {memory.oom_kills} killed by the kernel for it" if memory.oom_kills else ""
    most = f", at most {memory.peak_mib / 1024:.1f}" if memory.peak_mib else ""
    return [
        ended + when(evidence),
        *([f"{kind}: {first_line(text)}"] if kind else []),
        *(short(cause) for cause in evidence.behind()[:2]),
        *([f"memory{used(evidence)[1:]}{most}{kills}"] if used(evidence) else []),
        *([f"VRAM at most {evidence.vram_peak_mib / 1024:.1f} GiB"] if evidence.vram_peak_mib else []),
        *([f"/dev/shm {evidence.shm_mib} MiB"] if evidence.shm_mib is not None and evidence.shm_mib < 1024 else []),
        *gpu_words(evidence),
    ]


def _same(evidence: Evidence) -> str:
    """Names a failure by its exception, its text without numbers, and its step."""
    kind, text = unwrapped(*evidence.spoken())
    if not kind or evidence.signal or kind == "SystemExit":
        return ""
    return f"{kind}: {re.sub(r'0x[0-9a-f]+|[0-9]+', '#', first_line(text))[:120]} @ {evidence.step}"
