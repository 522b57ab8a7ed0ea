"""Findings of the doctor's checks, and the target that a check looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.machine import Machine, there
from pi0q.queue import settings as all_settings
from pi0q.queue.settings import Settings


class Status(str, Enum):
    """Result of a check."""

    OK = "ok"
    #: It works now and can fail later.
    WARNING = "warning"
    #: Jobs can't run, or may be lost.
    BROKEN = "broken"
    #: It could not be checked, or does not matter here.
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table."""

    #: Stable: scripts read it.
    name: str
    status: Status
    #: What was found, with its numbers; never a secret.
    detail: str
    #: The command that repairs it, or one sentence where no command can.
    cure: str = ""
    #: Repairs it and returns what it did; only where nothing can be lost by that.
    fix: Callable[[], str] | None = field(default=None, compare=False)


def ok(name: str, detail: str) -> Finding:
    return Finding(name=name, status=Status.OK, detail=detail)


def warning(name: str, detail: str, cure: str, fix: Callable[[], str] | None = None) -> Finding:
    return Finding(name=name, status=Status.WARNING, detail=detail, cure=cure, fix=fix)


def broken(name: str, detail: str, cure: str, fix: Callable[[], str] | None = None) -> Finding:
    return Finding(name=name, status=Status.BROKEN, detail=detail, cure=cure, fix=fix)


def skipped(name: str, detail: str) -> Finding:
    return Finding(name=name, status=Status.SKIPPED, detail=detail)


@dataclass(frozen=True, kw_only=True)
class CheckTarget:
    """What the checks look at: a machine, its settings and its purpose."""

    machine: Machine
    #: The defaults where the settings can't be read.
    settings: Settings
    #: Why the settings can't be read.
    fault: str = ""
    #: Whether this machine is meant to run jobs.
    box: bool = False


#: Yields the findings on one subject; an exception of a check becomes a finding itself.
Check = Callable[[CheckTarget], Iterator[Finding]]


def check_target(machine: Machine, *, box: bool | None = None) -> CheckTarget:
    """Return this machine as a target; `box` None guesses from its hardware and files whether it runs jobs."""
    fault = ""
    try:
        settings = all_settings.load(machine.env)
    except (Pi0qError, OSError) as error:
        fault = str(error)
        settings = Settings(home=all_settings.default_home(machine.env))
    if box is None:
        signs = (machine.at("/proc/driver/nvidia/version"), settings.home / "box.id")
        box = machine.autodl or any(map(there, signs)) or settings.fake_gpus is not None
    return CheckTarget(machine=machine, settings=settings, fault=fault, box=box)
