"""The flags of each LeRobot release, as its own argument classes have them: lerobot/VERSION.tsv.

ops/dev/lerobot_flags_main.py writes these files and says what their columns mean. What pi0q says of a flag by hand
(bounds, choices, a sentence) stands in train_flags.py and policy_flags.py; what it refuses, in forbidden_flags.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

#: Releases that a table was read from, oldest first, by the line that each stands for.
RELEASES = {"0.4": "0.4.4", "0.5": "0.5.1", "0.6": "0.6.1"}
DIRECTORY = Path(__file__).parent / "lerobot"
#: Stands for "all" where a table names the policy (reward model, optimizer, scheduler) that has a flag.
ALL = "-"


class Row(NamedTuple):
    """One flag of one release, for one policy or for all."""

    #: As the tables spell types: "list[int] | null".
    type: str
    #: JSON; "" where LeRobot wants a value, "?" where it computes one at the start.
    default: str


def line(version: str) -> str | None:
    """Return the line that speaks for a release ("0.6.3" -> "0.6"); None where there is no table."""
    short = ".".join(version.split(".")[:2])
    return short if short in RELEASES else None


class _Lines(Mapping[str, Mapping[str, Row]]):
    """A table that finds the rows of a flag in its text when they are asked for: a job has twenty of a thousand."""

    def __init__(self, text: str) -> None:
        self._text = f"\n{text}\n"
        self._found: dict[str, tuple[str, ...]] = {}

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(line.partition("\t")[0] for line in self._text.splitlines() if line)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self._lines(key))

    def __getitem__(self, key: str) -> Mapping[str, Row]:
        if not (lines := self._lines(key)):
            raise KeyError(key)
        cells = (line.split("\t") for line in lines)
        return {owner: Row(type_, default) for owner, type_, default in cells}

    def owners(self, key: str) -> Iterator[str]:
        """Yield who has a flag."""
        return (line.partition("\t")[0] for line in self._lines(key))

    def below(self, section: str) -> Iterator[str]:
        """Yield the flags of a section, `wandb` for those that begin with `wandb.`."""
        at = 0
        while (at := self._text.find(f"\n{section}.", at)) >= 0:
            at += 1
            yield self._text[at : self._text.index("\t", at)]

    def _lines(self, key: str) -> tuple[str, ...]:
        """Return the lines of a flag without its name."""
        if key in self._found:
            return self._found[key]
        head, at, found = f"\n{key}\t", 0, list[str]()
        # A key of a job's file may hold what separates rows and cells.
        while key.isprintable() and (at := self._text.find(head, at)) >= 0:
            at += len(head)
            found.append(self._text[at : self._text.index("\n", at)])
        if found:
            self._found[key] = tuple(found)
        return tuple(found)


@cache
def table(of: str) -> _Lines:
    """Return the table of a line."""
    return _Lines((DIRECTORY / f"{RELEASES[of]}.tsv").read_text(encoding="utf-8"))


def rows(key: str) -> dict[str, Mapping[str, Row]]:
    """Return a flag's rows by line, of the lines that have it."""
    return {of: found for of in RELEASES if (found := table(of).get(key))}


def takes(version: str, key: str) -> bool:
    """Whether a release has a flag; a release without a table is taken for the newest that has one."""
    return key in table(line(version) or max(RELEASES, key=_number))


def _number(of: str) -> tuple[int, ...]:
    return tuple(int(part) for part in of.split("."))
