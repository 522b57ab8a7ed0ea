"""What a check of a dataset found: what is wrong, where, and the cure."""

from __future__ import annotations

from dataclasses import dataclass

from pi0q.jobs.outcome import Reason


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault that would end the training, or make it worth nothing."""

    #: What is wrong, as a sentence without its full stop.
    what: str
    #: File and key: "meta/stats.json: action".
    where: str
    #: What to do: a command, or a line of the job file.
    cure: str
    reason: Reason = Reason.DATASET_DAMAGED

    @property
    def in_file(self) -> bool:
        """Whether the cure is a line of the job file; else it is done where the dataset lies."""
        return self.reason is Reason.SPEC_REFUSED

    def __str__(self) -> str:
        return f"{self.what} ({self.where}). Fix: {self.cure}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """How commands name the dataset that a finding is about."""

    repo_id: str
    #: Its directory on a box; "" for a repository of the Hub.
    root: str = ""

    @property
    def name(self) -> str:
        """Its directory where it has one, else its repository."""
        return self.root or self.repo_id

    @property
    def flags(self) -> str:
        """Return what names it to a script of LeRobot."""
        return f"--repo-id={self.repo_id}" + (f" --root={self.root}" if self.root else "")

    @property
    def after(self) -> str:
        """Return what is to be done once it is mended; a job that waits for a directory goes on by itself."""
        return "" if self.root else ", then let the job go on"
