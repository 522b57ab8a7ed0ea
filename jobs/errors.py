"""Every error that pi0q shows a user.

    Pi0qError                 1   what happened, what pi0q does now, what you can do
    ├── UsageError            2   a command or setting that cannot be meant
    │   └── SpecError         2   a job file with faults, all of them, each with its line
    ├── NotFound              3   no job or box of that name
    └── QueueUnreachable      4   the server that holds the queue does not answer

The number is the exit code of the `pi0q` command.
"""

from __future__ import annotations

from dataclasses import dataclass


class Pi0qError(Exception):
    """Something went wrong that a person can understand and mend."""

    exit_code = 1


class UsageError(Pi0qError):
    """A command or a setting that cannot be meant."""

    exit_code = 2


class NotFound(Pi0qError):
    """No job or box answers to that name."""

    exit_code = 3


class QueueUnreachable(Pi0qError):
    """The server that holds the queue does not answer, or refuses us."""

    exit_code = 4


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong in a job file."""

    #: Line in the file, counted from 1.
    line: int
    #: What is wrong and what would be right.
    text: str


class SpecError(UsageError):
    """A job file with faults; nothing was queued."""

    def __init__(self, filename: str, faults: list[Fault]) -> None:
        self.filename = filename
        self.faults = sorted(faults)
        lines = [f"  {filename}:{fault.line}: {fault.text}" for fault in self.faults]
        count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
        super().__init__("\n".join([f"{filename} has {count}; nothing was queued.", *lines]))
