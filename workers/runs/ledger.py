"""Ledger: what a box knows of a run, on its own disk. It corrects a server with older data, never the other way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pi0q.jobs.errors import BadRecord
from pi0q.jobs.job_id import is_job_id
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Use, keys_for, to_hash
from pi0q.jobs.record_codecs import BOOT, BOX, mapping, whole
from pi0q.jobs.state import OWNED, State, sources
from pi0q.jobs.transition import Transition
from pi0q.workers.host.files import write_atomic

#: Fields of the record that are worth a write to the disk; a step is not.
KEPT = frozenset(keys_for(Use.LEDGER))


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the run is to end: written before it is reported, so that the box can report it if the runner dies."""

    to: str
    reason: str
    #: One line for the history.
    text: str
    #: Fields of the record that change with it, as they lie in Redis.
    fields: Mapping[str, str]

    @classmethod
    def of(cls, last: Transition) -> Ending:
        """Return the ending that this final transition makes."""
        reason = last.reason.value if last.reason else ""
        return cls(to=last.to.value, reason=reason, text=last.text, fields=to_hash(last.fields))

    def transition(self, epoch: int) -> Transition:
        """Return the final transition again, for `Store.move`."""
        to = State(self.to)
        return Transition(
            to=to,
            source=OWNED & sources(to),
            epoch=epoch,
            text=self.text,
            reason=Reason(self.reason) if self.reason else None,
            fields=self.fields,
        )


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """One claim of one job, as its owner knows it."""

    job_id: str
    epoch: int
    #: The box that owns it, and its boot when it claimed the job.
    box: str
    boot: str
    #: The whole record, as it lies in Redis.
    fields: Mapping[str, str]
    #: None while the run goes on.
    ending: Ending | None = None

    def with_fields(self, fields: Mapping[str, str]) -> Ledger:
        """Return the same ledger with newer fields."""
        return replace(self, fields={**self.fields, **fields})

    def write(self, path: Path) -> None:
        """Replace the ledger on the disk so that it survives a power cut. Raises OSError."""
        write_atomic(path, json.dumps(asdict(self), ensure_ascii=False))


def load(path: Path) -> Ledger | None:
    """Return the ledger in a run's directory; None if there is none.

    Raises BadRecord for one that pi0q cannot have written there, and OSError.
    """
    job_id = path.parent.name
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BadRecord(job_id, path.name, "is not UTF-8") from None
    try:
        raw = mapping(json.loads(text))
        ending = Ending(**raw.pop("ending")) if raw.get("ending") else None
        if ending is not None:
            ending.transition(0)
        fields = {str(name): str(value) for name, value in mapping(raw.pop("fields")).items()}
        found = Ledger(
            **{
                **raw,
                "epoch": whole(raw["epoch"]),
                "box": BOX.read(raw["box"]),
                "boot": BOOT.read(raw["boot"]),
                "fields": fields,
                "ending": ending,
            }
        )
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
        raise BadRecord(job_id, path.name, "is not a ledger") from None
    if not is_job_id(found.job_id):
        raise BadRecord(job_id, path.name, "names no job")
    return found


def read(path: Path) -> Ledger | None:
    """Return the ledger in a run's directory; None if there is none, or it is damaged."""
    try:
        return load(path)
    except (OSError, BadRecord):
        return None
