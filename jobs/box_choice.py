"""Which boxes a job may run on by its user's choice: names of boxes and of GPUs (`box`, `not_box`, `gpu`). Pure.

The server finds waiting jobs by it (`allows` in common.lua), a box holds it against itself, `pi0q why` explains it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from pi0q.jobs.record_codecs import Codec, json_of, mapping

#: Patterns of one kind, at the most.
MOST = 64
#: `*` is any text, `?` any character.
PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,63}", re.ASCII)
GPU = re.compile(r"[A-Za-z0-9 ._()/+-]{1,60}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class BoxChoice:
    """What a box must be called, and its GPUs; nothing set: any box."""

    #: Names or patterns, one of which a box must match; empty: any.
    box: tuple[str, ...] = ()
    #: Names or patterns, none of which a box may match.
    not_box: tuple[str, ...] = ()
    #: Parts of a GPU's name, one of which each GPU of the job must have; upper and lower case are the same. Empty: any.
    gpu: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.box or self.not_box or self.gpu)

    def __str__(self) -> str:
        told = {"box": ", ".join(self.box), "not_box": ", ".join(self.not_box), "gpu": "|".join(self.gpu)}
        return "; ".join(f"{name}: {text}" for name, text in told.items() if text)

    def to_json(self) -> dict[str, list[str]]:
        """Return what the record keeps."""
        return {name: list(value) for name, value in asdict(self).items() if value}

    def file_json(self) -> dict[str, Any]:
        """Return the keys of `resources` in a job file."""
        return self.to_json() | ({"gpu": "|".join(self.gpu)} if self.gpu else {})

    def allows_box(self, name: str) -> bool:
        """Return whether a box of this name may take the job."""
        wanted = not self.box or any(fnmatchcase(name, pattern) for pattern in self.box)
        return wanted and not any(fnmatchcase(name, pattern) for pattern in self.not_box)

    def allows_gpu(self, name: str) -> bool:
        """Return whether the job may run on a GPU of this name."""
        return not self.gpu or any(part.lower() in name.lower() for part in self.gpu)


ANY = BoxChoice()


def of_values(values: Mapping[str, Any]) -> BoxChoice:
    """Return the choice of a job file; `values`: its values by key."""

    def listed(key: str) -> tuple[str, ...]:
        found = values.get(f"resources.{key}")
        return tuple(dict.fromkeys(map(str, found))) if isinstance(found, list) else ()

    gpu = str(values.get("resources.gpu") or "")
    parts = tuple(dict.fromkeys(part.strip() for part in gpu.split("|") if part.strip()))
    return BoxChoice(box=listed("box"), not_box=listed("not_box"), gpu=parts)


def fault(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with the choice of a job file as a whole, by key."""
    choice = of_values(values)
    if choice.gpu and values.get("resources.gpus") == 0:
        return {"resources.gpu": "is asked for but resources.gpus is 0; leave one of the two out"}
    excluded = [name for name in choice.box if name in choice.not_box]
    if excluded:
        return {"resources.not_box": f"names {excluded[0]}, and so does resources.box: no box can take the job"}
    for name in ("box", "not_box", "gpu"):
        if len(getattr(choice, name)) > MOST:
            return {f"resources.{name}": f"has more than {MOST} names; use patterns such as h100-*"}
    return {}


def _texts(value: object, pattern: re.Pattern[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST:
        raise ValueError
    if not all(isinstance(text, str) and pattern.fullmatch(text) for text in value):
        raise ValueError
    return tuple(value)


def _read(text: str) -> BoxChoice:
    found = mapping(json_of(text))
    if not set(found) <= {"box", "not_box", "gpu"}:
        raise ValueError
    kinds: Sequence[tuple[str, re.Pattern[str]]] = (("box", PATTERN), ("not_box", PATTERN), ("gpu", GPU))
    return BoxChoice(**{name: _texts(found.get(name, []), pattern) for name, pattern in kinds})


def _shown(choice: BoxChoice) -> Any:
    return choice.to_json()


BOX_CHOICE = Codec(_read, "names of boxes and GPUs as JSON", _shown)
