"""Every error that pi0q shows a user.

    Pi0qError                 1   what happened, what pi0q does now, what you can do
    ├── UsageError            2   an invalid command or setting
    │   └── SpecError         2   a job file with errors, all of them, each with its line
    ├── NotFound              3   no job or box of that name
    ├── BadRecord             1   a record, message or ledger that pi0q cannot have written
    └── QueueUnreachable      4   the server that holds the queue does not answer

The number is the exit code of the `pi0q` command.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pi0q.jobs.printable import printable


class Pi0qError(Exception):
    """Something went wrong that a person can understand and fix."""

    exit_code = 1

    def listed_faults(self) -> list[dict[str, Any]]:
        """Return the errors of job files, each with its file and line; empty for any other error."""
        return []

    def as_answer(self) -> dict[str, Any]:
        """Return what a command with `--json` prints in place of its answer."""
        error = {"kind": type(self).__name__, "message": printable(str(self)), "exit_code": self.exit_code}
        return {"error": error, "faults": self.listed_faults()}


class UsageError(Pi0qError):
    """An invalid command or setting."""

    exit_code = 2


class UsageErrors(UsageError):
    """Several invalid things of one command, told together."""

    def __init__(self, errors: Sequence[UsageError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, errors)))

    def listed_faults(self) -> list[dict[str, Any]]:
        """Return the faults of all of them."""
        return [fault for error in self.errors for fault in error.listed_faults()]


class NotFound(Pi0qError):
    """There is no job or box of that name."""

    exit_code = 3


class BadRecord(Pi0qError):
    """A job's record holds what pi0q does not write: no box runs the job, and no other job is affected."""

    def __init__(self, job_id: str, field: str, why: str) -> None:
        #: The id under which the record was found: any text.
        self.job_id = job_id
        #: The field at fault, by its name in Redis.
        self.field = field
        #: What is wrong with it: "is not a whole number".
        self.why = why
        super().__init__(
            f"The record of job {self.shown_id or '(no id)'} is damaged: its field {self.damage}.\n"
            "No box runs it, and no other job is affected.\n"
            f"Fix: `pi0q cancel {shlex.quote(self.shown_id)}` removes it; then submit its job file again."
        )

    @property
    def shown_id(self) -> str:
        """The id as a terminal may show it."""
        return printable(self.job_id, lines=False)[:200]

    @property
    def damage(self) -> str:
        """The field and what is wrong with it, in a few words."""
        return f"{self.field} {self.why}"

    def to_json(self) -> dict[str, str]:
        """Return what `--json` prints of the job instead of its record."""
        return {"id": self.shown_id, "state": "broken", "field": self.field, "damage": self.damage}


class QueueUnreachable(Pi0qError):
    """The server that holds the queue does not answer, or refuses us."""

    exit_code = 4

    def __init__(self, what: str, effect: str, fix: str) -> None:
        #: What happened.
        self.what = what
        #: What became of the command that met the error.
        self.effect = effect
        #: What the user can do.
        self.fix = fix
        super().__init__("\n".join((what, effect, fix)))


@dataclass(frozen=True)
class Fault:
    """One error in a job file."""

    #: Line in the file, counted from 1; 0 for a value of the command line.
    line: int
    #: What is wrong and what would be right; it follows the key.
    text: str
    #: The key at fault, `train.policy.dtype`; "" where the error is not that of a key.
    key: str = ""

    def __str__(self) -> str:
        return f"{self.key} {self.text}".lstrip()


class SpecError(UsageError):
    """A job file with errors; nothing was queued."""

    def __init__(self, filename: str, faults: list[Fault]) -> None:
        self.filename = filename
        self.faults = sorted(faults, key=lambda fault: (fault.line, str(fault)))
        # A key or a value of the file must not fake a line of this list.
        places = [f"{filename}:{fault.line}" if fault.line else "--set" for fault in self.faults]
        lines = [
            f"  {place}: {printable(str(fault), lines=False)}" for place, fault in zip(places, self.faults, strict=True)
        ]
        super().__init__("\n".join([f"{errors(len(lines))} in {filename}; nothing was queued.", *lines]))

    def listed_faults(self) -> list[dict[str, Any]]:
        """Return each fault with its file, line, key and text."""
        return [
            {"file": self.filename, "line": fault.line, "key": fault.key, "text": printable(fault.text)}
            for fault in self.faults
        ]


def errors(count: int) -> str:
    """Return `1 error` or `3 errors`."""
    return "1 error" if count == 1 else f"{count} errors"
