"""Whether and how a box switches itself off when nothing needs it (`PI0Q_IDLE_*`): the settings as values. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

#: What `idle_do` holds where the box finds out by itself how this machine is switched off.
SHUTDOWN = "shutdown"
#: What the user allowed to be there when the box goes off.
ONLY_COPIES, UNSYNCED_RUNS, LOGINS = "only-copies", "unsynced-runs", "logins"
ALLOWED = (ONLY_COPIES, UNSYNCED_RUNS, LOGINS)
#: Seconds of a day; and the longest span that can be asked for.
DAY = 86400.0
LONGEST = 30 * DAY
#: Words of a command of the user's own, and characters of each.
MOST_WORDS, LONGEST_WORD = 32, 1000

_UNITS = "s|sec|seconds?|m|min|minutes?|h|hours?|d|days?"
_SPAN = re.compile(rf"(\d{{1,7}}(?:\.\d{{1,3}})?) ?({_UNITS})", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}


class Phase(str, Enum):
    """How far a box is on its way to be switched off."""

    NEEDED = "needed"
    COUNTING = "counting"
    LEAVING = "leaving"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class IdlePolicy:
    """After which time a box switches itself off, after which warning, and what does not keep it on."""

    #: Seconds without any need for the box; None: it never switches itself off.
    after: float | None = None
    #: Seconds between the message and the end.
    grace: float = 300.0
    allow: Collection[str] = ()


def read_span(text: str) -> float:
    """Return the seconds of a duration with its unit. Raises ValueError with the right form."""
    found = _SPAN.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS[found[2][0]] if found else 0.0
    if not 1 <= seconds <= LONGEST:
        raise ValueError(f"it must be a duration from 1s to 30d, like 20min or 2h, not {text[:40]!r}")
    return seconds


def read_after(text: str) -> float | None:
    """Return the seconds of `20min`; None for `off`."""
    return None if text.strip() == "off" else read_span(text)


def read_command(text: str) -> tuple[str, ...]:
    """Return the words of `shutdown`, or of a command of the user's own as a JSON list. Raises ValueError."""
    if text.strip() == SHUTDOWN:
        return (SHUTDOWN,)
    wrong = f'it must be {SHUTDOWN}, or a command as a list of its words: ["/usr/local/bin/off", "--now"]'
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(wrong) from None
    if not isinstance(words, list) or not 1 <= len(words) <= MOST_WORDS:
        raise ValueError(wrong)
    if not all(isinstance(word, str) and len(word) <= LONGEST_WORD and "\0" not in word for word in words):
        raise ValueError(wrong)
    if not words[0].startswith("/"):
        raise ValueError(f"the command must begin with the full path of a program, not {words[0][:40]!r}")
    return tuple(words)


def read_allowed(text: str) -> tuple[str, ...]:
    """Return what does not keep the box on. Raises ValueError for other words."""
    words = tuple(text.replace(",", " ").split())
    if wrong := [word for word in words if word not in ALLOWED]:
        raise ValueError(f"it must hold some of {', '.join(ALLOWED)}, not {', '.join(wrong)[:100]}")
    return words


def minutes(seconds: float) -> str:
    """Return a time that is left, rounded up: `45 s`, `12 min`, `3 h 5 min`."""
    whole = max(0, -int(-seconds // 1))
    if whole < 60:
        return f"{whole} s"
    hours, left = divmod(-(-whole // 60), 60)
    return " ".join(part for part in (f"{hours} h" if hours else "", f"{left} min" if left else "") if part)
