"""Words and variables of a shell script, as far as its text alone tells them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pi0q.jobs.errors import UsageError

#: Longest value that is worked out, in characters: a script can double one with each line.
LONGEST_VALUE = 64 * 1024
#: LeRobot's trainer by one of its names, without any flag.
_TRAINER = re.compile(
    r"(\S*/)?lerobot-train|(\S*/)?python[\d.]* -m lerobot\.scripts\.(lerobot_)?train|"
    r"(\S*/)?python[\d.]* (\S*/)?lerobot_train\.py"
)
#: Most words of one command or array.
MOST_WORDS = 4_000


@dataclass(frozen=True)
class Unknown:
    """A part of a word that only a run of the script would tell."""

    #: As the script writes it: `$DATA`, `$(date +%s)`.
    source: str
    #: Why it can't be told; it follows `source, `: "which the loop on line 3 changes".
    why: str
    #: The variable that nothing in the script sets; "" where it is no such.
    unset: str = ""


@dataclass(frozen=True)
class Word:
    """One word that a command gets."""

    #: Its text; unknown parts stand in it as the script writes them.
    text: str
    #: Line on which it is written, counted from 1.
    line: int
    unknown: tuple[Unknown, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the script alone tells the whole text."""
        return not self.unknown


#: What a variable holds: one word, or the words of an array.
Value = Word | tuple[Word, ...]


@dataclass(frozen=True)
class Variable:
    """A variable at one point of the script."""

    value: Value
    exported: bool = False


@dataclass
class Scope:
    """The variables, the script's arguments and the functions at one point of the script."""

    variables: dict[str, Variable] = field(default_factory=dict)
    #: Arguments of the function whose body is read; None: those of the script, which nobody has given.
    arguments: tuple[Word, ...] | None = None
    #: Files that the script has read in by `source`, which may set any variable: line and name.
    sourced: tuple[tuple[int, str], ...] = ()
    #: Whether `set -a` exports each variable that is set.
    exports_all: bool = False
    #: Whether this way through the script has ended: exit, exec, return, break.
    ended: bool = False
    #: Arrays with keys; their items are variables named `NAME[key]`.
    keyed: frozenset[str] = frozenset()

    def copy(self) -> Scope:
        """Return a scope for a way through the script that may not be taken."""
        return replace(self, variables=dict(self.variables))

    def get(self, name: str) -> Value | None:
        """Return a variable's value; None where the script hasn't set it."""
        found = self.variables.get(name)
        return found.value if found else None

    def set(self, name: str, value: Value, *, export: bool = False) -> None:
        """Set a variable; one that is exported stays so."""
        before = self.variables.get(name)
        exported = export or self.exports_all or bool(before and before.exported)
        if name in self.keyed:
            self.drop_items(name)
        self.variables[name] = Variable(value, exported)

    def drop_items(self, name: str) -> None:
        """Forget the items of an array with keys."""
        self.keyed -= {name}
        for item in [item for item in self.variables if item.startswith(f"{name}[")]:
            del self.variables[item]

    def export(self, name: str) -> None:
        """Export a variable that is set."""
        if name in self.variables:
            self.variables[name] = replace(self.variables[name], exported=True)

    def exported(self) -> dict[str, Value]:
        """Return what a command's environment gets from the script."""
        return {name: variable.value for name, variable in self.variables.items() if variable.exported}


def text_of(value: Value) -> str:
    """A value's text, as "$NAME" has it."""
    return value.text if isinstance(value, Word) else (value[0].text if value else "")


def forget(scope: Scope, names: Iterable[str], line: int, why: str) -> None:
    """Make variables unknown, for the reason given."""
    for name in names:
        scope.set(name, Word(f"${name}", line, (Unknown(f"${name}", why),)))


def merge(before: Scope, ways: list[Scope], line: int, what: str) -> None:
    """Bring several ways through a script together again, into `before`.

    A variable that they leave with different values is unknown, but for one that continues a training in one way
    and does not in the others: there the training counts. A way that ended brings nothing.
    """
    going_on = [way for way in ways if not way.ended]
    if not going_on:
        before.ended = True
        return
    for name in {name for way in going_on for name in way.variables}:
        found = [way.variables.get(name) for way in going_on]
        distinct = {_plain(variable) for variable in found}
        if len(distinct) == 1:
            chosen = found[0]
        else:
            fresh = [variable for variable in found if not (variable and _resumes(variable.value))]
            fresh_values = {_plain(variable) for variable in fresh}
            chosen = fresh[0] if fresh and len(fresh_values) == 1 and len(fresh) < len(found) else None
            if chosen is None and not (fresh and len(fresh) < len(found) and fresh_values == {None}):
                why = f"which {what} on line {line} may change"
                chosen = Variable(
                    Word(f"${name}", line, (Unknown(f"${name}", why),)), any(v and v.exported for v in found)
                )
        if chosen is None:
            before.variables.pop(name, None)
        else:
            before.variables[name] = chosen
    before.keyed = frozenset().union(*(way.keyed for way in going_on))
    before.sourced = max((way.sourced for way in going_on), key=len)


def _plain(variable: Variable | None) -> object:
    """A value without the lines that it is written on; all ways of naming LeRobot's trainer are one."""
    if variable is None:
        return None
    value = variable.value
    words = (value,) if isinstance(value, Word) else value
    if _TRAINER.fullmatch(" ".join(word.text for word in words)):
        return _TRAINER
    return isinstance(value, Word), tuple((word.text, word.known) for word in words)


def _resumes(value: Value) -> bool:
    words = (value,) if isinstance(value, Word) else value
    return any("--resume" in word.text or "--config_path" in word.text for word in words)


class Fields:
    """Builds the words that one word of a script becomes, as quotes and splitting have it."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.words: list[Word] = []
        self._open: Word | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet."""
        return self._open is None and not self.words

    def add(self, text: str, unknown: tuple[Unknown, ...] = (), *, line: int | None = None) -> None:
        """Add text to the word at hand."""
        at = self._open or Word("", line or self.line)
        if len(at.text) + len(text) > LONGEST_VALUE:
            raise UsageError(f"Line {self.line} makes a value of more than 64 KiB; nothing was written.")
        self._open = Word(at.text + text, at.line, at.unknown + unknown)

    def add_split(self, word: Word) -> None:
        """Add an unquoted value: blanks in it end words."""
        pieces = word.text.split() if word.known else [word.text]
        if word.text[:1].isspace():
            self.end()
        for at, piece in enumerate(pieces):
            if at:
                self.end()
            self.add(piece, word.unknown, line=word.line)
        if pieces and word.text[-1:].isspace():
            self.end()

    def add_array(self, words: tuple[Word, ...]) -> None:
        """Add the words of a quoted array: the first and the last join what stands beside them."""
        for at, word in enumerate(words):
            if at:
                self.end()
            self.add(word.text, word.unknown, line=word.line)

    def end(self) -> None:
        """End the word at hand."""
        if self._open is not None:
            self.words.append(self._open)
            self._open = None
        if len(self.words) > MOST_WORDS:
            raise UsageError(f"Line {self.line} makes more than {MOST_WORDS} words; nothing was written.")

    def all(self) -> list[Word]:
        """Return the words."""
        self.end()
        return self.words
