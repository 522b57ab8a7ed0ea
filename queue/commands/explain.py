"""`pi0q submit --explain KEY`: what a key of the job file takes, does and means, and which LeRobot has it."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import click
import yaml

from pi0q.jobs.errors import NotFound
from pi0q.jobs.schema import flags
from pi0q.jobs.schema.nodes import node_of
from pi0q.jobs.schema.rules import nearest
from pi0q.jobs.schema.value_types import ListOf, PathType, ValueType
from pi0q.jobs.spec import RULES

WIDTH = 80
#: How wide the names of the rows are.
_NAMES = 10
#: Longest default that is shown, in characters.
_LONGEST = 60
#: What LeRobot's tables say where there is no default, or one that is worked out.
_NO_DEFAULT = ("", "?", "null")
#: Every owner, in LeRobot's tables.
_ALL = "-"
#: Tried in this order where no choice and no default can be shown.
_EXAMPLES: tuple[Any, ...] = (
    *(True, ["a"], [1], [0.5, 0.9], [224, 224], {"ACTION": "MEAN_STD"}, {"a": "b"}),
    {"action": {"type": "ACTION", "shape": [7]}},
    *("text", "me/data", "30min", "90GiB", "50CNY", "/data/x", "hf://datasets/me/data/x.parquet", 1, 0.5, {}),
)


class KeyHelp(NamedTuple):
    """What there is to say of one key."""

    #: As the job file has it: train.policy.dtype.
    key: str
    says: str
    #: What it takes: "true or false", "a whole number from 1 to 16".
    takes: str
    #: A line of YAML, "" where the key is refused.
    example: str
    #: What LeRobot takes where it is left out, as JSON, by policy; empty for a key of pi0q.
    defaults: Mapping[str, str]
    #: Who has it, by LeRobot line; empty for a key of pi0q.
    known: Mapping[str, tuple[str, ...]]
    #: Why it is refused; "" if it is taken.
    refused: str


def show(key: str, *, as_json: bool) -> None:
    """Print what there is to say of a key, or of each key of a section. Raises NotFound."""
    section = _section(key)
    if as_json:
        found: Any = [help_of(one)._asdict() for one in section] if section else help_of(key)._asdict()
        click.echo(json.dumps(found, indent=2))
    elif section:
        click.echo("\n".join(_listed(section)))
    else:
        click.echo("\n".join(_rows(help_of(key))))


def help_of(key: str) -> KeyHelp:
    """What there is to say of a key, with or without `train.` before it. Raises NotFound where there is none."""
    rule = next((rule for rule in RULES if rule.key == key), None)
    if rule is not None:
        return KeyHelp(key, rule.says, rule.kind.wants, example_of(key, rule.kind), {}, {}, "")
    name = flags.place(key.removeprefix("train.")) or key.removeprefix("train.")
    found = flags.explain(name)
    if found is None:
        near = nearest(name, [*flags.FLAGS, *(rule.key for rule in RULES)])
        hint = f" Did you mean {near}? Fix: pi0q submit --explain {near}" if near else ""
        raise NotFound(f"{key} is not a key of a job file, and no flag that pi0q knows of lerobot-train.{hint}")
    refused = found.refused or ""
    return KeyHelp(
        key=f"train.{name}",
        says=found.says,
        takes=found.wants,
        example="" if refused else example_of(f"train.{name}", flags.FLAGS[name].kind, found.defaults),
        defaults=found.defaults,
        known={of: tuple(sorted(owners)) for of, owners in found.known.items()},
        refused=refused,
    )


def example_of(key: str, kind: ValueType, defaults: Mapping[str, str] | None = None) -> str:
    """A line of YAML with a value that the key takes: a choice, LeRobot's default, or one of its type."""
    short = Counter(text for text in (defaults or {}).values() if text not in _NO_DEFAULT and len(text) <= _LONGEST)
    default = [json.loads(text) for text, _ in short.most_common(1)]
    options: list[Any] = list(getattr(kind, "options", ()))[-1:]
    # A list of choices: the last of them.
    options += [list(getattr(kind.of, "options", ()))[-1:]] if isinstance(kind, ListOf) else []
    path = ["/data/x"] if isinstance(kind, PathType) else []
    value = next((value for value in (*options, *default, *path, *_EXAMPLES) if _taken(value, kind)), None)
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    text: str = yaml.safe_dump(nested, default_flow_style=True, width=10_000).strip()
    return text[1:-1]


def _taken(value: Any, kind: ValueType) -> bool:
    told = list[str]()
    kind.read(node_of(value), lambda _, text: told.append(text))
    return not told


def _section(key: str) -> list[str]:
    """The keys of a section, in the file's order; none where it is a key itself."""
    every = [rule.key for rule in RULES] + [f"train.{name}" for name in flags.FLAGS]
    if key in every or f"train.{key}" in every:
        return []
    return [name for name in every if name.startswith((f"{key}.", f"train.{key}."))]


def _listed(keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        yield f"{key}"
        yield from textwrap.wrap(help_of(key).says, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _rows(of: KeyHelp) -> Iterator[str]:
    yield of.key
    if of.says:
        yield from textwrap.wrap(of.says, WIDTH, initial_indent="  ", subsequent_indent="  ")
    if of.refused:
        yield from textwrap.wrap(f"It {of.refused}.", WIDTH, initial_indent="  ", subsequent_indent="  ")
        return
    yield ""
    yield from _row("takes", of.takes)
    yield from _row("example", of.example)
    yield from _row("left out", "; ".join(_defaults(of.defaults)))
    for at, (line, owners) in enumerate(_lines(of.known)):
        yield from _row("LeRobot" if at == 0 else "", f"{line}: {owners}")


def _row(name: str, text: str) -> list[str]:
    """One row of the table, over several lines where it is long."""
    if not text:
        return []
    start = f"  {name:<{_NAMES}}"
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)


def _defaults(defaults: Mapping[str, str]) -> Iterator[str]:
    """LeRobot's defaults, who has the same one together: `50 for pi0, pi05`, `100 for act`."""
    by_value: dict[str, list[str]] = {}
    for owner, text in defaults.items():
        value = None if text in _NO_DEFAULT else json.loads(text)
        shown = value if isinstance(value, str) and value else text
        shown = "" if value is None else shown if len(shown) <= _LONGEST else "LeRobot's own (--json shows it)"
        by_value.setdefault(shown, []).append(owner)
    for shown, owners in by_value.items():
        whose = "" if len(by_value) == 1 else f" for {', '.join(owners)}"
        if shown:
            yield f"{shown}{whose}"


def _lines(known: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """LeRobot's lines with who has the flag there; lines that agree stand together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for line, owners in known.items():
        if owners:
            together.setdefault(owners, []).append(line)
    for owners, lines in together.items():
        yield ", ".join(lines), "all" if _ALL in owners else ", ".join(owners)
