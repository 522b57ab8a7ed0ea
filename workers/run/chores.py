"""What is left to do for a run when its trainer is gone, written down beside it: `<run directory>/after.json`.

The runner adds a chore, the worker's aftercare does it (workers/aftercare.py); a death of either, or of the box, loses
nothing but the try that was under way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

PENDING, DONE, FAILED = "pending", "done", "failed"


@dataclass(frozen=True, kw_only=True)
class Chore:
    """One thing that is left to do for one run; there is at most one of each kind."""

    #: A key of aftercare.KINDS.
    kind: str
    #: The claim that it belongs to.
    epoch: int
    box: str
    #: What whoever does it must know; JSON, never a secret.
    order: Mapping[str, Any] = field(default_factory=dict)
    #: pending, done, or failed: given up until a user says `pi0q retry`.
    state: str = PENDING
    #: Why it is not done yet, or what came of it, in words.
    detail: str = ""
    #: Tries in a row that failed.
    tries: int = 0
    #: When it is tried again, by this box's clock, seconds since 1970.
    next_at: float = 0.0
    #: What else the record is told of it, such as an address.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Fields of the record besides its own that are told with it.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the record has heard how it stands.
    told: bool = False
    #: The user's last wish to try it again that was heeded, by the server's clock, ms.
    heeded_ms: int = 0

    def to_record(self) -> dict[str, Any]:
        """What the job's record says of it."""
        return {**self.result, "state": self.state, "detail": self.detail, "tries": self.tries}


@dataclass(frozen=True)
class Chores:
    """Those of one run directory. Safe to be used by several processes at once. Raises OSError."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "after.json"

    def read(self) -> list[Chore]:
        """All of them; none where there is no such file, or a damaged one."""
        known = set(Chore.__dataclass_fields__)
        try:
            raw = json.loads(self.file.read_text(encoding="utf-8"))["chores"]
            # A newer pi0q may have written more.
            return [Chore(**{name: value for name, value in one.items() if name in known}) for one in raw]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return []

    def open(self) -> list[Chore]:
        """Those that are not done."""
        return [chore for chore in self.read() if chore.state != DONE]

    def add(self, chore: Chore) -> None:
        """Puts a chore down, in place of an earlier one of its kind."""
        with self._changing() as chores:
            chores[chore.kind] = chore

    def change(self, chore: Chore, **fields: Any) -> Chore | None:
        """The chore with these fields changed; None where another has taken its place meanwhile."""
        with self._changing() as chores:
            now = chores.get(chore.kind)
            if now is None or now.epoch != chore.epoch:
                return None
            chores[chore.kind] = replace(now, **fields)
            return chores[chore.kind]

    def drop(self, chore: Chore) -> None:
        """Forgets a chore that is no longer this box's."""
        with self._changing() as chores:
            if chore.kind in chores and chores[chore.kind].epoch == chore.epoch:
                del chores[chore.kind]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Chore]]:
        with FileLock(self.path / "after.lock"):
            chores = {chore.kind: chore for chore in self.read()}
            before = dict(chores)
            yield chores
            if chores != before:
                self._write(list(chores.values()))

    def _write(self, chores: list[Chore]) -> None:
        fresh = self.file.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"chores": [asdict(chore) for chore in chores]}, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.file)


def everywhere(runs: Path) -> Iterator[Chores]:
    """Each run directory of this box that has chores."""
    for file in sorted(runs.glob("*/after.json")):
        yield Chores(file.parent)
