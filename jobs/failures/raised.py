"""An exception that ended a trainer, or one behind it: what the hook sent of it, or what the log holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: The last line of a traceback: an exception's name, with or without its module, and what it says.
RAISED = re.compile(r"^(?:\[rank\d+\]: ?)?(?P<kind>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning|Interrupt|"
                    r"Exit|OutOfResources|Unavailable|NotFound|Enabled|Timeout|BackendCompilerFailed))"
                    r"(?:: ?(?P<text>.*))?$")  # fmt: skip
#: A frame of a traceback.
FRAME = re.compile(r'^\s*(?:\[rank\d+\]: ?)?\s*File "(?P<file>[^"]+)", line \d+, in (?P<function>\S+)')
#: Lines of a message below its first that are read.
MESSAGE_LINES = 16
#: Frames that are kept, the innermost last.
FRAMES = 12
#: Characters of a text, and of a name or path.
TEXT, NAME = 4000, 200
#: Where installed packages lie; what follows is a package's own path.
_PACKAGES = re.compile(r".*/(?:site|dist)-packages/")


@dataclass(frozen=True, kw_only=True)
class Raised:
    """One exception. What is not known is empty."""

    #: The name of its class, without the module.
    kind: str
    text: str = ""
    #: The module of its class, as `torch._inductor.exc`.
    module: str = ""
    #: Names of the classes that it is derived from, the nearest first.
    bases: tuple[str, ...] = ()
    #: The number of an error of the operating system.
    errno: int | None = None
    #: The status of an HTTP answer.
    status: int | None = None
    #: Where it was raised, the innermost last, each `lerobot/datasets/utils.py:load_info`.
    frames: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.kind)

    @property
    def package(self) -> str:
        """The package of its class; "" if unknown."""
        return self.module.partition(".")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of its class and those of the classes that it is derived from."""
        return (self.kind, *self.bases)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    @classmethod
    def of(cls, kind: str, text: str = "") -> Raised:
        """Return an exception of which the name, with or without its module, and the text are known."""
        module, _, name = kind.rpartition(".")
        return cls(kind=name, text=text, module=module)

    @classmethod
    def from_json(cls, told: Any) -> Raised | None:
        """Read what the hook sent of one exception; None for what is no description of one."""
        if not isinstance(told, dict) or not told.get("type"):
            return None
        return cls(
            kind=str(told["type"])[:NAME],
            text=str(told.get("message") or "")[:TEXT],
            module=str(told.get("module") or "")[:NAME],
            bases=_texts(told.get("bases")),
            errno=_whole(told.get("errno")),
            status=_whole(told.get("status")),
            frames=tuple(shortened(frame) for frame in _texts(told.get("frames"))[-FRAMES:]),
        )


def unwrapped(raised: Raised) -> Raised:
    """Return what a data loader's worker really met, instead of `Caught X in DataLoader worker process 0`."""
    if not raised.text.startswith("Caught "):
        return raised
    lines = raised.text.splitlines()
    for index in range(len(lines) - 1, -1, -1):
        if found := RAISED.match(lines[index].strip()):
            text = "\n".join([found["text"] or "", *lines[index + 1 :]]).strip()
            return replace(Raised.of(found["kind"], text), frames=frames_in(lines[:index]))
    return raised


def frames_in(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the frames of the last traceback in these lines."""
    found = list[str]()
    for line in reversed(lines):
        if frame := FRAME.match(line):
            found.append(shortened(f"{frame['file']}:{frame['function']}"))
        elif "Traceback (most recent call last)" in line or len(found) >= FRAMES:
            break
    return tuple(reversed(found))


def shortened(frame: str) -> str:
    """Return a frame with the path of its file below its package alone."""
    return _PACKAGES.sub("", frame)[:NAME]


def raised_in(lines: Sequence[str]) -> list[Raised]:
    """Return the exceptions that ended a traceback in a log, the last first, each with the lines that follow it."""
    found, below = list[Raised](), list[str]()
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        raised = RAISED.match(line.strip())
        if raised:
            text = "\n".join([raised["text"] or "", *below[-MESSAGE_LINES:][::-1]]).strip()
            found.append(replace(Raised.of(raised["kind"], text), frames=frames_in(lines[:index])))
        ends_message = line.startswith((" ", "Traceback", "During", "The above"))
        below = [] if ends_message or raised else [*below, line.rstrip()]
    return found


def with_frames(raised: Raised, logged: Iterable[Raised]) -> Raised:
    """Return it with the frames that the log has of the same exception, where the hook sent none."""
    if raised.frames:
        return raised
    return next((replace(raised, frames=one.frames) for one in logged if one.kind == raised.kind), raised)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(one)[:NAME] for one in value) if isinstance(value, list) else ()


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1_000_000 else None
