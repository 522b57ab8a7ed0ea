"""Which boxes are which containers, and what was tried and told, on the disk of the queue's machine."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import UsageError
from pi0q.ops import file_edits

STATE_FILE, TOKEN_FILE = "power.json", "autodl.token"
#: Seconds before a container that had no free GPU is tried again: doubled each time up to the second number.
FIRST_PAUSE, LAST_PAUSE = 60.0, 900.0


@dataclass
class Linked:
    """One box that may be started."""

    #: The container's id at AutoDL.
    instance: str
    #: CNY an hour; None until AutoDL said it.
    price: float | None = None
    #: When it said so, milliseconds since 1970.
    price_ms: int = 0
    #: Milliseconds since 1970 before which it is not tried again, and the seconds of the pause that ends then.
    not_before_ms: int = 0
    pause: float = 0.0
    #: Days left until its release when that was told last; None for never.
    told_days: int | None = None

    def fail(self, now_ms: int) -> float:
        """Remember that it could not be started; return the seconds until it is tried again."""
        self.pause = min(LAST_PAUSE, 2 * self.pause) if self.pause else FIRST_PAUSE
        self.not_before_ms = now_ms + int(1000 * self.pause)
        return self.pause


@dataclass
class State:
    """All of the file."""

    boxes: dict[str, Linked] = field(default_factory=dict)
    #: What a container runs when it is started; "" for nothing: a box that `pi0q box setup` made starts by itself.
    start_command: str = ""
    #: Jobs for which it was told that the balance does not cover them.
    told_poor: list[str] = field(default_factory=list)

    def write(self, home: Path) -> None:
        """Write the file at once or not at all."""
        file_edits.write(home / STATE_FILE, json.dumps(asdict(self)), 0o600)


def read(home: Path) -> State:
    """Return the file's content; an empty one where there is none. Raises UsageError for one that can't be read."""
    path = home / STATE_FILE
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        boxes = {str(box): Linked(**one) for box, one in found["boxes"].items()}
        return State(boxes=boxes, start_command=str(found["start_command"]), told_poor=list(found["told_poor"]))
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{path} can't be read as what `pi0q power` writes. No box is started.\n"
            f"Fix: rm {path}   and link the boxes again: pi0q power link BOX pro-…"
        ) from None


def is_set_up(home: Path) -> bool:
    """Return whether a token is kept and a box was linked, so that boxes can be started."""
    return (home / TOKEN_FILE).exists() and (home / STATE_FILE).exists()


def write_token(home: Path, token: str) -> None:
    """Keep the account's developer token, for its owner alone to read. Raises UsageError for what can be none."""
    text = token.strip()
    if not 8 <= len(text) <= 4096 or not text.isprintable() or " " in text:
        raise UsageError("That is no developer token of AutoDL: it is one line without spaces. Nothing was changed.")
    file_edits.write(home / TOKEN_FILE, text + "\n", 0o600)


def read_token(home: Path) -> str:
    """Return the developer token; "" where there is none. Raises UsageError where others may read it."""
    path = home / TOKEN_FILE
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise UsageError(
                f"{path} can be read by others (mode {mode:o}); it has full power over the account. It is not used.\n"
                f"Fix: chmod 600 {path}"
            )
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
