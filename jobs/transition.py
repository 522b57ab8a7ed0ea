"""The named ways in which a job moves. Callers never put fields together themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from pi0q.jobs.outcome import MAX_FRUITLESS_RUNS, MAX_REST_SECONDS, OUTCOMES, Next, Reason
from pi0q.jobs.record import Record
from pi0q.jobs.state import State, sources


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
    """Ended for good because a user wished so."""
    return Transition(
        to=State.CANCELLED,
        source=sources(State.CANCELLED),
        epoch=epoch,
        text=text,
        reason=Reason.CANCELLED_BY_USER,
        fields={"phase": "", "detail": text},
    )


def refused(reason: Reason, detail: str) -> Transition:
    """Ended before any box took it: its preflight found what only its user can mend."""
    return Transition(
        to=State.FAILED,
        source=frozenset({State.QUEUED}),
        epoch=None,
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
    """The one decision after a run: done, failed, tried again, or simply to go on.

    `record` is read afresh: its runner sets `fruitless` to 0 with each new checkpoint. `asked_seconds` is how long
    to stay away, if whoever refused us said so; `evidence` what was seen of the trainer's end, see diagnosis.py.
    """
    then, attempts = OUTCOMES[reason].next, OUTCOMES[reason].attempts
    # A claim whose runner never took the job in hand says something of the box, nothing of the job.
    counted = record.state is not State.CLAIMED
    fruitless = record.fruitless + (counted and then is not Next.REST)
    rest = rest_seconds(record, OUTCOMES[reason].rest_seconds, asked_seconds) if then is Next.REST else 0.0
    # A run that left a checkpoint behind got on: what ends it afterwards is the first failure of a new series.
    got_on = record.fruitless == 0 and record.checkpoint is not None
    tried = 1 if got_on and then is Next.RETRY else record.attempt
    if then is Next.RETRY and tried >= attempts:
        then, detail = Next.FAIL, f"{detail} (attempt {tried} of {attempts})"
    elif then is Next.RETRY and again(record, evidence or {}):
        then, detail = Next.FAIL, f"{detail} (the same as the time before, so it is not tried again)"
    if then is Next.GO_ON and fruitless >= MAX_FRUITLESS_RUNS:
        then, detail, reason = (
            Next.FAIL,
            f"{detail} ({fruitless} times without a new checkpoint)",
            Reason.CRASH_LOOP,
        )
    to = {Next.DONE: State.SUCCEEDED, Next.FAIL: State.FAILED}.get(then, State.QUEUED)
    # The attempt is counted when a runner starts; an interruption gives it back. sweep.lua does the same.
    given_back = then in (Next.GO_ON, Next.REST) and counted
    attempt = record.attempt - 1 if given_back else tried
    return Transition(
        to=to,
        source=frozenset({State.CLAIMED, State.PREPARING, State.RUNNING}) & sources(to),
        epoch=epoch,
        text=detail,
        reason=reason,
        fields={
            "phase": "",
            "detail": detail,
            "attempt": max(0, attempt),
            "fruitless": fruitless,
            "rest_seconds": rest,
            "evidence": dict(evidence or {}),
        },
    )


def again(record: Record, evidence: Mapping[str, Any]) -> bool:
    """Whether the last run ended by the same exception at the same step: then the next one would as well."""
    return bool(evidence.get("same")) and record.evidence.get("same") == evidence.get("same")


def rest_seconds(record: Record, first: float, asked: float) -> float:
    """How long the job rests: twice as long as the last time, no less than asked, and not as long as its neighbour."""
    jitter = 1 + (crc32(f"{record.id}{record.epoch}".encode()) % 256) / 1024
    return min(MAX_REST_SECONDS, jitter * max(first, 2 * record.rest_seconds, asked))
