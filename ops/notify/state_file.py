"""What was sent already, on the disk of the queue's machine, so that a restart neither loses nor repeats a message."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pi0q.jobs.notices import Notice
from pi0q.ops import file_edits

#: Keys of sent notices that are kept per target.
KEPT = 500


@dataclass
class Sent:
    """What one target has got."""

    #: Everything up to this moment was sent or is not wanted, milliseconds on the server's clock.
    until_ms: int = 0
    #: Keys of notices after that moment that were sent.
    keys: list[str] = field(default_factory=list)

    def add(self, notices: Iterable[Notice]) -> None:
        """Remember notices that were sent."""
        self.keys = [*self.keys, *(notice.key for notice in notices)][-KEPT:]

    def lacks(self, notice: Notice) -> bool:
        """Return whether the target has not got it."""
        return notice.at_ms > self.until_ms and notice.key not in self.keys


@dataclass
class State:
    """All of the file."""

    #: By the label of the target.
    targets: dict[str, Sent] = field(default_factory=dict)
    #: Boxes that were up at the last look.
    boxes: list[str] = field(default_factory=list)
    #: Boxes that were told to be lost.
    lost: list[str] = field(default_factory=list)
    #: Phase of each box that was told to switch itself off, or to have done so.
    leaving: dict[str, str] = field(default_factory=dict)
    #: Step of the newest checkpoint of each job that lives.
    saved: dict[str, int] = field(default_factory=dict)
    #: Whether something waited or ran at the last look.
    busy: bool = False

    def write(self, path: Path) -> None:
        """Write the file at once or not at all."""
        file_edits.write(path, json.dumps(asdict(self)), 0o600)


def read(path: Path) -> State:
    """Return the file's content; an empty one where there is none, or where it can't be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return State(
            targets={
                str(label): Sent(until_ms=int(sent["until_ms"]), keys=list(map(str, sent["keys"])))
                for label, sent in found["targets"].items()
            },
            boxes=list(map(str, found["boxes"])),
            lost=list(map(str, found["lost"])),
            # Absent in a file of an older version.
            leaving={str(box): str(phase) for box, phase in found.get("leaving", {}).items()},
            saved={str(job): int(step) for job, step in found["saved"].items()},
            busy=bool(found["busy"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()
