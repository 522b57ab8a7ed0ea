"""Codecs of the record's fields: how each text of Redis is read and checked, and how its value is shown.

What lies in Redis is not trusted. A codec raises ValueError for every text that pi0q itself does not write: a field
reaches a command line, a path, an environment or a terminal only in a form that is harmless there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum
from math import isfinite
from typing import Any, NamedTuple

from pi0q.jobs import job_id
from pi0q.jobs.outcome import Reason
from pi0q.jobs.printable import printable
from pi0q.jobs.state import State

#: Characters of a text, and of JSON: the preflights of a thousand boxes are the longest.
MAX_TEXT, MAX_JSON = 64 * 1024, 4 * 1024 * 1024
#: Characters of a spec: a job file has 64 KiB at the most. A list of two million episodes held up all claims for 4.5 s.
MAX_SPEC = 256 * 1024
#: Characters of what was seen of a trainer's end, see jobs/failures/facts.py.
MAX_FACTS = 64 * 1024
#: Levels of JSON: a spec has three.
MAX_DEPTH = 16
#: Steps, bytes, milliseconds and MiB are whole numbers that a Lua script can hold exactly.
MAX_INT = 2**53
#: GPUs of one job.
MAX_GPUS = 1024

# Patterns of the values that reach a path, a command line or an environment.
_BOX = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_BOOT = r"[A-Za-z0-9._-]{1,80}"
_COMMIT = r"[0-9a-f]{40}"
_HASH = r"[0-9a-f]{64}"
_GPU = r"(GPU|MIG|FAKE)-[A-Za-z0-9._/-]{1,120}"
#: draccus, LeRobot's parser, opens the file that a value beginning with `include` names.
_WANDB_RUN = r"(?!include)[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_VERSION = r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}"
_URL = r"https?://[^\s\x00-\x20\x7f-\x9f]{1,2000}"
#: A path on the box, or the address of a repository; no part of it leads upwards.
_PATH = r"(?!.*(?:^|/)\.\.(?:/|$))(?:/|hf://)[^\x00-\x1f\x7f]{0,4096}"


class Codec(NamedTuple):
    """How a field of the record is read and shown; `to_hash` writes it."""

    #: Reads the text in the Redis hash. Raises ValueError, and whatever else a malformed text makes Python raise.
    read: Callable[[str], Any]
    #: What the text must be, for a person: "a whole number".
    expects: str
    #: The value for `--json`.
    show: Callable[[Any], Any] = lambda value: value


# -- plain values ------------------------------------------------------------------------------------


def _text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError
    return printable(text)


def _line(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError
    return printable(text, lines=False)


def whole(value: object, *, most: int = MAX_INT) -> int:
    """Return a whole number of JSON from 0 to `most`. Raises ValueError."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError
    return value


def _int(text: str) -> int:
    # A Lua script writes large numbers as 1.7e+12.
    value = int(text) if text.isdecimal() and len(text) < 20 else int(float(text))
    if not 0 <= value <= MAX_INT:
        raise ValueError
    return value


def _span(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_INT:
        raise ValueError
    return value


def matching(pattern: str) -> Callable[[object], str]:
    """Return a reader of texts that match the whole pattern. It raises ValueError for any other value."""

    def read(text: object) -> str:
        # Compiled at the first use, and kept by `re`: most commands need none of them.
        if not isinstance(text, str) or not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return read


def _one_of(*words: str) -> Codec:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Codec(read, f"one of {', '.join(words)}")


def reason_of(text: str | None) -> Reason | None:
    """Return the reason of this name; None where there is none, or one of a newer pi0q."""
    return _REASONS.get(text or "")


_REASONS = {reason.value: reason for reason in Reason}

TEXT = Codec(_text, f"text of {MAX_TEXT} characters at the most")
LINE = Codec(_line, f"text of {MAX_TEXT} characters at the most")
ID = Codec(matching(job_id.PATTERN), "a job's id: 12 hexadecimal digits")
INT = Codec(_int, "a whole number of 0 or more")
#: A loss or a learning rate may have diverged; JSON knows no NaN.
FLOAT = Codec(float, "a number", lambda value: value if value is None or isfinite(value) else None)
SPAN = Codec(_span, "a number of seconds")
STATE = Codec(State, f"one of {', '.join(State)}")
REASON = Codec(reason_of, "a reason")
PRIORITY = _one_of("low", "normal", "high", "urgent")
WISH = _one_of("cancel", "stop")
SAVE_ABLE = _one_of("starting", "yes", "no")
BOX = Codec(matching(_BOX), "the name of a box")
BOOT = Codec(matching(_BOOT), "a boot")
PATH = Codec(matching(_PATH), "an absolute path")
URL = Codec(matching(_URL), "an address https://…")
WANDB_RUN = Codec(matching(_WANDB_RUN), "the id of a WandB run: letters, digits, '.', '_' and '-'")
VERSION = Codec(matching(_VERSION), "a version")


# -- JSON --------------------------------------------------------------------------------------------


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def json_of(text: str) -> Any:
    """Return a value of JSON, its texts printable, its numbers finite, its depth bounded. Raises ValueError."""
    if len(text) > MAX_JSON:
        raise ValueError
    return _clean(_DECODER.decode(text), MAX_DEPTH)


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not isfinite(value):
        raise ValueError
    if isinstance(value, (list, dict)):
        if not depth:
            raise ValueError
        if isinstance(value, list):
            return [_clean(item, depth - 1) for item in value]
        return {printable(key): _clean(item, depth - 1) for key, item in value.items()}
    return value


def mapping(value: object) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for any other value."""
    if not isinstance(value, dict):
        raise ValueError
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError
    return value


def _map(key: Callable[[str], Any], value: Callable[[Any], Any]) -> Callable[[str], dict[str, Any]]:
    """Return a reader of a JSON object whose keys and values these two read."""

    def read(text: str) -> dict[str, Any]:
        return {key(name): value(item) for name, item in mapping(json_of(text)).items()}

    return read


def _needs(text: str) -> dict[str, int]:
    found = mapping(json_of(text))
    return {name: whole(value, most=MAX_GPUS if name == "gpus" else MAX_INT) for name, value in found.items()}


def _spec(text: str) -> dict[str, Any]:
    if len(text) > MAX_SPEC:
        raise ValueError
    found = mapping(json_of(text))
    for section in ("train", "checkpoints", "resources", "preflight"):
        mapping(found.get(section, {}))
    return found


#: Values of reports that are counted with: seconds, megabytes, tries.
_NUMBERS = frozenset({"seconds", "mb", "tries"})
#: Values of reports that are lines of text.
_LINES = frozenset({"seen", "notes"})
#: Values of reports that are objects.
_OBJECTS = frozenset({"dataset", "sizes", "free"})


def report(value: object) -> dict[str, Any]:
    """Return what a box reported in a few words and numbers: of a preflight, a push, a trainer's end.

    Raises ValueError.
    """
    found = mapping(value)
    for name, item in found.items():
        if item is None:
            continue
        if name in _NUMBERS:
            if type(item) not in (int, float) or not 0 <= item <= MAX_INT:
                raise ValueError
        elif name in _LINES:
            if not all(isinstance(line, str) for line in _list(item)):
                raise ValueError
        elif name in _OBJECTS:
            mapping(item)
        elif isinstance(item, (list, dict)):
            raise ValueError
    return found


def _told(text: str) -> dict[str, Any]:
    return report(json_of(text))


def _facts(text: str) -> dict[str, Any]:
    if len(text) > MAX_FACTS:
        raise ValueError
    return mapping(json_of(text))


def _disk_plan(text: str) -> dict[str, Any]:
    found = report(json_of(text))
    whole(found.get("checkpoint_mib", 0))
    for box, mib in found.get("free", {}).items():
        BOX.read(box)
        whole(mib)
    return found


def _steps(text: str) -> tuple[int, ...]:
    return tuple(whole(step) for step in _list(json_of(text)))


def _peaks(text: str) -> tuple[int, ...]:
    return tuple(whole(peak, most=MAX_INT) for peak in _list(json_of(text))[:MAX_GPUS])


def _gpus(text: str) -> tuple[str, ...]:
    found = _list(json_of(text))
    if len(found) > MAX_GPUS:
        raise ValueError
    return tuple(map(matching(_GPU), found))


def _step(text: str) -> str:
    _int(text)
    return text


SPEC = Codec(_spec, "a job as JSON")
NEEDS = Codec(_needs, "JSON with whole numbers of 0 or more")
TOLD = Codec(_told, "a report as JSON")
#: What it holds is read by jobs/failures/facts.py, value by value.
FACTS = Codec(_facts, "what was seen of a trainer's end as JSON")
TOLD_BY_BOX = Codec(_map(BOX.read, report), "a report of each box as JSON")
DISK_PLAN = Codec(_disk_plan, "MiB as JSON")
PINS = Codec(_map(LINE.read, matching(_COMMIT)), "commits of 40 hexadecimal digits as JSON")
MANIFEST = Codec(matching(_HASH), "a SHA-256 sum")
MANIFESTS = Codec(_map(_step, matching(_HASH)), "SHA-256 sums by step as JSON")
COMPILED = Codec(_map(matching(_HASH), matching(_HASH)), "SHA-256 sums by key as JSON")
GPUS = Codec(_gpus, "a JSON list of GPU UUIDs", list)
STEPS = Codec(_steps, "a JSON list of steps", list)
PEAKS = Codec(_peaks, "a JSON list of MiB", list)


class Use(Enum):
    """What a field is used for besides `pi0q show`."""

    #: Lists of jobs: `pi0q ls`, Flower, the scan of the queue. A spec can be long and is left out.
    LISTED = "listed"
    #: A box reads it of the jobs that it owns.
    OWNED = "owned"
    #: A retried job takes it over: where its checkpoints are, its WandB run, what was found out already.
    CARRIED = "carried"
    #: How far a run came: written once more with its end.
    FINAL = "final"
    #: A change is written to the ledger on the box's disk at once; a new step is not worth that.
    LEDGER = "ledger"
