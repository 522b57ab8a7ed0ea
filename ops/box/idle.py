"""Switching itself off, as `pi0q box setup` takes it and `pi0q box status` shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pi0q.jobs.errors import UsageError
from pi0q.jobs.printable import printable
from pi0q.ops.box import control
from pi0q.ops.checks.finding import Finding, warning
from pi0q.queue.idle_outlook import STATUS_FILE, Outlook
from pi0q.queue.idle_policy import ALLOWED, Phase, minutes
from pi0q.queue.setting_readers import READERS
from pi0q.queue.settings import Settings
from pi0q.workers.idle import command

#: Bytes of the status file that are read.
MOST_BYTES = 8192
#: Options of setup -> settings; what they are for.
OPTIONS = {
    "idle_after": (
        "--idle-after",
        "TIME",
        "Switch this machine off when nothing has needed it for TIME; `off`: never.",
    ),
    "idle_do": ("--idle-do", "HOW", "How: `shutdown`, or a command as a JSON list of its words."),
    "idle_grace": ("--idle-grace", "TIME", "Time between the message and the end; 5min when left out."),
    "idle_allow": ("--idle-allow", "WORDS", f"What does not keep it on: {', '.join(ALLOWED)}; `none` for nothing."),
}


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a click command; it gets them as keywords, None where one was not given."""
    for name, (flag, metavar, text) in reversed(OPTIONS.items()):
        function = click.option(flag, name, metavar=metavar, help=text)(function)
    return function


def values(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the settings to store for the options that were given. Raises UsageError for what can't be read."""
    found = {}
    for name, text in given.items():
        if text is None:
            continue
        wanted = "" if name == "idle_allow" and text == "none" else text
        try:
            READERS[name](wanted)
        except ValueError as error:
            flag = OPTIONS[name][0]
            raise UsageError(
                f"{flag} can't be read: {printable(str(error), lines=False)}. Nothing was changed.\n"
                "Fix: pi0q box setup --idle-after 20min --idle-do shutdown"
            ) from None
        found[name] = wanted
    return found


def with_values(settings: Settings, stored: Mapping[str, str]) -> Settings:
    """Return the settings as they are once these texts are stored."""
    read: dict[str, Any] = {name: READERS[name](text) for name, text in stored.items()}
    return replace(settings, **read)


def check(settings: Settings) -> Finding | None:
    """Return the warning that this machine will not go off as the settings say; None where it may, or never does."""
    if settings.idle_after is None:
        return None
    wrong = command.fault(settings.idle_do, root=os.geteuid() == 0)
    return warning("power off", wrong.why, wrong.fix) if wrong else None


def status(settings: Settings, *, now: float) -> str:
    """Return when this box switches itself off, or why it does not. `now`: seconds since 1970."""
    if settings.idle_after is None:
        return "never by itself; pi0q box setup --idle-after 20min changes that"
    if not control.worker_locked(settings.home):
        return "never by itself while its worker does not run; pi0q box start"
    told = _read(settings.home / STATUS_FILE)
    if told is None or told[0].phase is Phase.OFF:
        return f"by itself once nothing has needed it for {minutes(settings.idle_after)}"
    outlook, at = told
    return outlook.text(ago=max(0.0, now - at), now=now)


def _read(file: Path) -> tuple[Outlook, float] | None:
    """Return what the worker wrote, and when; None where that can't be read."""
    try:
        with file.open("rb") as opened:
            raw = json.loads(opened.read(MOST_BYTES))
        return Outlook.of_json(raw), float(raw["at"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
