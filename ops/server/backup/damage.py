"""What is wrong with a job's record, judged by its backup, and how to put it right. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi0q.jobs.errors import BadRecord
from pi0q.jobs.record import from_hash, unreadable
from pi0q.jobs.record_codecs import whole
from pi0q.jobs.state import ENDED
from pi0q.queue.digests import sha256

#: Bytes of a record and its history above which it is none that pi0q wrote.
MOST_BYTES = 8 << 20
#: What a submitter said of a job, and its signature: nothing changes it but a new signature.
SUBMITTED = ("spec", "continues")
NEEDED = ("id", "name", "state", "created_ms")
#: Fields whose change is worth a new line of the backup: a step is not.
WORTH = (
    *("state", "epoch", "box", "reason", "priority", "held", "wish", "awaits", "start_ms", "needs", "message", "queue"),
    *(
        "signature",
        "receipt",
        "starts_from",
        "start_job",
        "continued",
        "checkpoint",
        "copied",
        "manifests",
        "kept_steps",
        "push",
        "wandb_sync",
    ),
)
_ENDS = frozenset(state.value for state in ENDED)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A job's record as the backup has it: texts of Redis."""

    fields: Mapping[str, str]
    history: Sequence[str] = ()

    @property
    def mark(self) -> Mark:
        """Return what is remembered of it."""
        worth = json.dumps([self.fields.get(name, "") for name in WORTH])
        return Mark(
            claim=claim_of(self.fields),
            end=end_of(self.fields),
            submitted=submitted(self.fields),
            worth=sha256(worth.encode()),
        )


@dataclass(frozen=True, kw_only=True)
class Mark:
    """As much of a kept record as tells whether another one is older, newer, or false."""

    claim: int
    #: The state in which it ended; "" if it has not.
    end: str
    #: Digest of what its submitter said.
    submitted: str
    #: Digest of all that is worth a new line.
    worth: str


@dataclass(frozen=True, kw_only=True)
class Repair:
    """The fields to write, and what was seen of them: they are written only where that is so still."""

    seen: Mapping[str, str]
    fields: Mapping[str, str]


def claim_of(fields: Mapping[str, str]) -> int:
    """Return the claim number in a record; 0 for none."""
    try:
        return whole(int(fields.get("epoch") or 0))
    except ValueError:
        return 0


def end_of(fields: Mapping[str, str]) -> str:
    """Return the state in which a job ended; "" if it has not."""
    return state if (state := fields.get("state", "")) in _ENDS else ""


def submitted(fields: Mapping[str, str]) -> str:
    """Return a digest of what its submitter said of a job."""
    return sha256(json.dumps([fields.get(name, "") for name in SUBMITTED]).encode())


def damage_of(job_id: str, raw: Mapping[str, str], known: Mark | None, *, removed: bool) -> str:
    """Return what is wrong with a record, in a few words; "" where nothing is.

    Args:
        job_id: The job.
        raw: Its record as it lies on the server; empty where there is none.
        known: What the backup has of it.
        removed: Whether an admin had the record removed.
    """
    if not raw:
        return "" if known is None or removed else "its record is gone"
    try:
        from_hash(raw, job_id=job_id)
    except BadRecord as error:
        return f"its field {error.damage}"
    if sum(len(name) + len(text) for name, text in raw.items()) > MOST_BYTES:
        return "its record is larger than any that pi0q writes"
    if known is None:
        return ""
    if submitted(raw) != known.submitted:
        return "its job file is not the one that was submitted"
    if claim_of(raw) < known.claim:
        return f"its claim number went back from {known.claim} to {claim_of(raw)}"
    if known.end and raw.get("state") != known.end:
        return f"it had {known.end if known.end != 'cancelled' else 'been cancelled'}, and now it is {raw['state']}"
    return ""


def repair(job_id: str, raw: Mapping[str, str], kept: Kept) -> Repair | None:
    """Return how to put a record right by its backup; None where nothing is wrong with it.

    As little as possible is written: what else the record says may be newer. Raises BadRecord where the backup does
    not make it whole.
    """
    known = kept.mark
    if not damage_of(job_id, raw, known, removed=False):
        return None
    is_older = claim_of(raw) < known.claim or (known.end != "" and raw.get("state") != known.end)
    names = set(kept.fields) if not raw or is_older else _at_fault(raw, kept)
    fields = {name: kept.fields.get(name, "") for name in sorted(names)}
    from_hash({**raw, **fields}, job_id=job_id)
    return Repair(seen={name: raw.get(name, "") for name in ("state", "epoch", *fields)}, fields=fields)


def _at_fault(raw: Mapping[str, str], kept: Kept) -> set[str]:
    """Return the names of the fields of a record that are damaged."""
    names = set(unreadable(raw)) | {name for name in NEEDED if not raw.get(name)}
    names |= {"id"} if raw.get("id") != kept.fields.get("id") else set()
    if submitted(raw) != kept.mark.submitted:
        names |= {*SUBMITTED, "signature", "needs"}
    if "state" in names:
        # The claim number belongs to the state.
        names |= {"epoch", "box"} if claim_of(raw) <= kept.mark.claim else set()
    return names
