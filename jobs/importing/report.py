"""What an import tells its user: what was left out or changed, and what is wrong, each with its line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Remark:
    """One sentence about one line of what was imported."""

    #: Line in the script or file, counted from 1.
    line: int
    text: str


class Report:
    """Collects remarks: a note leaves the import as it is, a fault ends it."""

    def __init__(self, name: str = "the command") -> None:
        #: What is imported, as a sentence names it.
        self.name = name
        #: Variables that the script needs and does not set.
        self.unset: dict[str, None] = {}
        self._notes: dict[Remark, None] = {}
        self._faults: dict[Remark, None] = {}

    def note(self, line: int, text: str) -> None:
        """Add a note; the same one counts once."""
        self._notes[Remark(line, text)] = None

    def fault(self, line: int, text: str) -> None:
        """Add a fault; the same one counts once."""
        self._faults[Remark(line, text)] = None

    @property
    def notes(self) -> tuple[Remark, ...]:
        """The notes in order of line."""
        return tuple(sorted(self._notes))

    @property
    def faults(self) -> tuple[Remark, ...]:
        """The faults in order of line."""
        return tuple(sorted(self._faults))
