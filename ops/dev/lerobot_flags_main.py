"""Writes the flag table of one LeRobot release from its own argument classes: jobs/schema/lerobot/VERSION.tsv.

    python -m pi0q.ops.dev.lerobot_flags_main > jobs/schema/lerobot/0.6.1.tsv          the installed LeRobot
    python -m pi0q.ops.dev.lerobot_flags_main DIRECTORY > jobs/schema/lerobot/0.5.1.tsv   the one that lies there

DIRECTORY holds `lerobot` and `lerobot-*.dist-info`: a wheel, unpacked
(`pip install --no-deps --target DIRECTORY lerobot==0.5.1`). It is imported in this interpreter, which must have
LeRobot's large dependencies (torch, draccus, huggingface_hub); of those in STAND_INS an empty module is enough.

One line a flag, four columns, tabs between them:

    key      as `lerobot-train` spells it, without the dashes
    of       the policy, reward model, optimizer or scheduler that has it (the section's `type`); `-` for all
    type     bool, int, float, str, path, any, enum(A|B), list[T], tuple[T, T], dict[str, T],
             record(name: T, name?: T) with `?` where the record may leave it out, T | null
    default  as JSON; empty where LeRobot wants a value, `?` where it is computed at the start

`env.*` is left out: a simulator's flags, none of which pi0q takes.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import json
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

#: Packages that some LeRobot imports on the way to its argument classes and needs nothing of there.
STAND_INS = frozenset({"deepdiff", "imageio", "serial"})
#: Sections that are left out.
LEFT_OUT = frozenset({"env"})
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str", Path: "path", Any: "any"}
Row = tuple[str, str, str, str]


class StandIn(types.ModuleType):
    """A module that has whatever name is asked of it, as a class that takes any arguments."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for each package of STAND_INS that is not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        wanted = name.partition(".")[0] in STAND_INS
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """A stand-in has nothing to run."""


def register(package: Path) -> None:
    """Import every module of LeRobot that registers a policy or a reward model, and no model."""
    files = sorted(file for kind in ("policies", "rewards") for file in package.glob(f"{kind}/**/configuration_*.py"))
    for file in files:
        if "register_subclass" not in file.read_text(encoding="utf-8"):
            continue
        parts = ("lerobot", *file.relative_to(package).with_suffix("").parts)
        for depth in range(2, len(parts)):
            # What the folder's own __init__.py imports are the models: transformers, diffusers, minutes of it.
            folder = types.ModuleType(".".join(parts[:depth]))
            folder.__path__ = [str(package.joinpath(*parts[1:depth]))]
            sys.modules.setdefault(folder.__name__, folder)
        importlib.import_module(".".join(parts))


def rows(config: Any) -> Iterator[Row]:
    """Yield the table of an argument class, in its own order."""
    yield from _fields(config, "", "-")


def _fields(config: Any, prefix: str, of: str) -> Iterator[Row]:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        key, hint = prefix + field.name, hints[field.name]
        if not field.init or key in LEFT_OUT:
            continue
        section = _section(hint)
        if section is None:
            yield key, of, spelt(hint), _default(field)
        elif not hasattr(section, "get_known_choices"):
            yield from _fields(section, f"{key}.", of)
        else:
            yield from _choices(section, key)


def _choices(section: Any, key: str) -> Iterator[Row]:
    """Yield the flags of every class that can be chosen by `KEY.type`."""
    known = dict(sorted(section.get_known_choices().items()))
    yield f"{key}.type", "-", f"enum({'|'.join(known)})", ""
    for name, config in known.items():
        yield from _fields(config, f"{key}.", name)


def _section(hint: Any) -> Any:
    """Return the class whose fields are flags of their own (`peft.r`); None where the flag takes one value."""
    inner = [one for one in _members(hint) if one is not type(None)]
    return inner[0] if len(inner) == 1 and dataclasses.is_dataclass(inner[0]) else None


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def spelt(hint: Any) -> str:
    """Return a type as the table spells it. Raises TypeError for one that the table has no word for."""
    members = _members(hint)
    if len(members) > 1:
        words = dict.fromkeys("null" if one is type(None) else spelt(one) for one in members)
        return " | ".join(sorted(words, key="null".__eq__))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is typing.Literal:
        return f"enum({'|'.join(map(str, args))})"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"enum({'|'.join(str(one.value) for one in hint)})"
    if dataclasses.is_dataclass(hint):
        return f"record({', '.join(_field_of_record(hint))})"
    if hint in (list, tuple, dict):
        return {list: "list[any]", tuple: "list[any]", dict: "dict[str, any]"}[hint]
    if origin is tuple and args[-1] is Ellipsis:
        return f"list[{spelt(args[0])}]"
    if origin in (list, tuple, dict):
        return f"{origin.__name__}[{', '.join(map(spelt, args))}]"
    raise TypeError(f"the table has no word for the type {hint!r}")


def _field_of_record(record: Any) -> Iterator[str]:
    hints = typing.get_type_hints(record)
    for field in dataclasses.fields(record):
        yield f"{field.name}{'?' * bool(_default(field))}: {spelt(hints[field.name])}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _json(field.default)
    factory = field.default_factory
    if factory is dataclasses.MISSING:
        return ""
    # A named function of LeRobot looks at the machine (which video decoder is there); a lambda or a class does not.
    return "?" if isinstance(factory, types.FunctionType) and factory.__name__ != "<lambda>" else _json(factory())


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def table() -> str:
    """Return the table of the LeRobot that this interpreter imports."""
    sys.meta_path.append(StandIns())
    package = Path(str(importlib.import_module("lerobot").__file__)).parent
    register(package)
    config = importlib.import_module("lerobot.configs.train").TrainPipelineConfig
    return "".join("\t".join(row) + "\n" for row in rows(config))


def main() -> None:
    if sys.argv[1:]:
        sys.path.insert(0, str(Path(sys.argv[1]).absolute()))
    sys.stdout.write(table())


if __name__ == "__main__":
    main()
