"""The named ways in which a job moves. Callers never put fields together themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from pi0q.jobs.outcome import MAX_REST_SECONDS, MAX_RUNS_WITHOUT_CHECKPOINT, OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import OWNED, State, sources


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One move, carried out by `Store.move` only if state and epoch are still as expected."""

    to: State
    #: States it may start from.
    source: frozenset[State]
    #: The epoch whose holder makes it; None where no one owns the job.
    epoch: int | None
    #: One line for the history.
    text: str
    reason: Reason | None = None
    #: Fields of the record that change with it.
    fields: Mapping[str, Any] = field(default_factory=dict)


def preparing(epoch: int, *, attempt: int, run_dir: str) -> Transition:
    """A runner took the job in hand."""
    fields = {"attempt": attempt, "run_dir": run_dir, "phase": "preparing"}
    return Transition(
        to=State.PREPARING,
        source=frozenset({State.CLAIMED}),
        epoch=epoch,
        text=f"attempt {attempt}",
        fields=fields,
    )


def running(epoch: int, *, text: str, started_ms: int | None) -> Transition:
    """Its trainer lives."""
    fields = {"started_ms": started_ms} if started_ms else {}
    return Transition(to=State.RUNNING, source=frozenset({State.PREPARING}), epoch=epoch, text=text, fields=fields)


def noted(state: State, epoch: int, *, text: str) -> Transition:
    """A line of its owner's in the history of a job in this state, which stays."""
    return Transition(to=state, source=frozenset({state}), epoch=epoch, text=text)


def cancelled(epoch: int | None, *, text: str) -> Transition:
    """Cancelled on a user's request."""
    return Transition(
        to=State.CANCELLED,
        source=sources(State.CANCELLED),
        epoch=epoch,
        text=text,
        reason=Reason.CANCELLED_BY_USER,
        fields={"phase": "", "detail": text},
    )


def refused(reason: Reason, detail: str) -> Transition:
    """Ended before any box took it: its preflight found what only its user can fix."""
    return Transition(
        to=State.FAILED,
        source=frozenset({State.QUEUED}),
        epoch=None,
        text=detail,
        reason=reason,
        fields={"phase": "", "detail": detail},
    )


def held_for_input(why: str, lacks: Mapping[str, Any]) -> Transition:
    """Kept out of the queue: no box has what it reads. A box that gets it lets the job go on."""
    text = f"because {'no box has what it reads' if lacks else 'of what it reads'}: {why}"
    return Transition(
        to=State.WAITING,
        source=frozenset({State.QUEUED}),
        epoch=None,
        text=text,
        reason=Reason.HELD,
        fields={"held": text, "lacks": dict(lacks), "phase": ""},
    )


def found_input(text: str) -> Transition:
    """Queued again: a box has what it was held for."""
    fields = {"held": "", "lacks": {}, "detail": ""}
    return Transition(to=State.QUEUED, source=frozenset({State.WAITING}), epoch=None, text=text, fields=fields)


def gave_up_input(reason: Reason, detail: str) -> Transition:
    """Ended after the time that its user set for what it reads to come."""
    return Transition(
        to=State.FAILED,
        source=frozenset({State.WAITING}),
        epoch=None,
        text=detail,
        reason=reason,
        fields={"held": "", "lacks": {}, "phase": "", "detail": detail},
    )


def unreadable(epoch: int, detail: str, reason: Reason = Reason.SPEC_REFUSED) -> Transition:
    """Ended by its owner, who cannot run it: its record, its spec or its signature is not what was claimed."""
    return Transition(
        to=State.FAILED,
        source=OWNED & sources(State.FAILED),
        epoch=epoch,
        text=detail,
        reason=reason,
        fields={"phase": "", "detail": detail},
    )


def ended(
    record: Record,
    epoch: int,
    reason: Reason,
    detail: str,
    *,
    asked_seconds: float = 0.0,
    evidence: Mapping[str, Any] | None = None,
) -> Transition:
    """Decide what follows a run: done, failed, tried again, or requeued.

    `record` is read afresh: its runner sets `runs_without_checkpoint` to 0 with each new checkpoint. `asked_seconds`:
    how long whoever refused us asked to stay away. `evidence`: `Diagnosis.to_json`. sweep.lua counts an expired lease
    in the same way.
    """
    # A claim whose runner never took the job in hand says something of the box, nothing of the job.
    ran = record.state is not State.CLAIMED
    rests = OUTCOMES[reason].next is Next.RETRY_LATER
    runs = record.runs_without_checkpoint + (ran and not rests)
    attempt = _attempt(record, reason)
    verdict = _verdict(record, reason, attempt=attempt, runs=runs, evidence=evidence or {})
    detail += f" ({verdict.note})" if verdict.note else ""
    # The attempt is counted when a runner starts; an interruption gives it back.
    if ran and verdict.next in (Next.REQUEUE, Next.RETRY_LATER):
        attempt = max(0, record.attempt - 1)
    return Transition(
        to=verdict.state,
        source=OWNED & sources(verdict.state),
        epoch=epoch,
        text=detail,
        reason=verdict.reason,
        fields={
            "phase": "",
            "detail": detail,
            "attempt": attempt,
            "fruitless": runs,
            "rest_seconds": rest_seconds(record, OUTCOMES[reason].rest_seconds, asked_seconds) if rests else 0.0,
            **_told(evidence or {}),
        },
    )


def _told(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of what was seen: facts are long and must not be in each list of jobs."""
    seen = {name: value for name, value in evidence.items() if name != "facts"}
    return {"evidence": seen, "facts": evidence.get("facts", {})}


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What follows, for which reason, and what to add to the sentence about it."""

    next: Next
    reason: Reason
    note: str = ""

    @property
    def state(self) -> State:
        return {Next.DONE: State.SUCCEEDED, Next.FAIL: State.FAILED}.get(self.next, State.QUEUED)


def _attempt(record: Record, reason: Reason) -> int:
    """Return the number of the attempt that ended: after a new checkpoint a failure is the first of a new series."""
    progressed = record.runs_without_checkpoint == 0 and record.checkpoint is not None
    return 1 if progressed and OUTCOMES[reason].next is Next.RETRY else record.attempt


def _verdict(record: Record, reason: Reason, *, attempt: int, runs: int, evidence: Mapping[str, Any]) -> _Verdict:
    outcome = OUTCOMES[reason]
    if outcome.next is Next.RETRY and attempt >= outcome.attempts:
        return _Verdict(next=Next.FAIL, reason=reason, note=f"attempt {attempt} of {outcome.attempts}")
    if outcome.next is Next.RETRY and again(record, evidence):
        return _Verdict(next=Next.FAIL, reason=reason, note="the same as the time before, so it is not tried again")
    if outcome.next is Next.REQUEUE and runs >= MAX_RUNS_WITHOUT_CHECKPOINT:
        return _Verdict(next=Next.FAIL, reason=Reason.CRASH_LOOP, note=f"{runs} times without a new checkpoint")
    return _Verdict(next=outcome.next, reason=reason)


def again(record: Record, evidence: Mapping[str, Any]) -> bool:
    """Whether the last run ended by the same exception at the same step: then the next one would as well."""
    return bool(evidence.get("same")) and record.evidence.get("same") == evidence.get("same")


def rest_seconds(record: Record, first: float, asked: float) -> float:
    """Return how long the job rests: twice the last time, no less than asked, with a jitter between jobs."""
    jitter = 1 + (crc32(f"{record.id}{record.epoch}".encode()) % 256) / 1024
    return min(MAX_REST_SECONDS, jitter * max(first, 2 * record.rest_seconds, asked))
