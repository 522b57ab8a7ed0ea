"""What a box knows of a run, on its own disk: an older server is corrected by it, never the other way round."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import to_hash
from pi0q.jobs.state import OWNED, State, sources
from pi0q.jobs.transition import Transition

#: Fields of the record that are worth a write to the disk; a step is not.
KEPT = frozenset({"state", "checkpoint", "copied", "fruitless", "pins", "wandb_run_id", "wandb_url", "wandb_dir",
                  "save_served"})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the run is to end: written before the queue is told, so that the box can tell it where the runner died."""

    to: str
    reason: str
    #: One line for the history.
    text: str
    #: Fields of the record that change with it, as they lie in Redis.
    fields: Mapping[str, str]

    @classmethod
    def of(cls, last: Transition) -> Ending:
        """The ending that this last move makes."""
        reason = last.reason.value if last.reason else ""
        return cls(to=last.to.value, reason=reason, text=last.text, fields=to_hash(last.fields))

    def transition(self, epoch: int) -> Transition:
        """The last move again, for `Store.move`."""
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
        """The same with newer fields."""
        return replace(self, fields={**self.fields, **fields})

    def write(self, path: Path) -> None:
        """Puts it where it was, on the disk for good. Raises OSError."""
        fresh = path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: Path) -> Ledger | None:
    """The ledger in a run's directory; None if there is none, or a damaged one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        ending = Ending(**raw.pop("ending")) if raw.get("ending") else None
        if ending is not None:
            ending.transition(0)
        fields = {str(name): str(value) for name, value in raw.pop("fields").items()}
        return Ledger(**{**raw, "epoch": int(raw["epoch"]), "fields": fields, "ending": ending})
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
