"""What a check found, and what checks are given to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from pi0q.jobs.errors import Pi0qError
from pi0q.ops.machine import Machine, there
from pi0q.queue import settings as all_settings
from pi0q.queue.settings import Settings


class Status(str, Enum):
    """How something is."""

    OK = "ok"
    #: It works, and will bite one day.
    WARNING = "warning"
    #: Jobs can't run, or may be lost.
    BROKEN = "broken"
    #: It could not be looked at, or does not matter here.
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table."""

    #: Stable: scripts look for it.
    name: str
    status: Status
    #: What was found, with its numbers; never a secret.
    detail: str
    #: The command that mends it, or one sentence where no command can.
    cure: str = ""
    #: Mends it and says what it did; only where nothing can be lost by that.
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
class Patient:
    """What is looked at."""

    machine: Machine
    #: The defaults where the settings can't be read.
    settings: Settings
    #: Why the settings can't be read.
    fault: str = ""
    #: Whether this machine is meant to run jobs.
    box: bool = False


#: Looks at one thing and tells of it; a check that raises becomes a finding itself.
Check = Callable[[Patient], Iterator[Finding]]


def patient(machine: Machine, *, box: bool | None = None) -> Patient:
    """This machine; whether it is a box is guessed where nobody says so."""
    fault = ""
    try:
        settings = all_settings.load(machine.env)
    except (Pi0qError, OSError) as error:
        fault = str(error)
        settings = Settings(home=all_settings.default_home(machine.env))
    if box is None:
        signs = (machine.at("/proc/driver/nvidia/version"), settings.home / "box.id")
        box = machine.autodl or any(map(there, signs)) or settings.fake_gpus is not None
    return Patient(machine=machine, settings=settings, fault=fault, box=box)
