"""What a value in a job file may be: each kind reads one YAML node, or says what would be right.

PyYAML resolves scalars by YAML 1.1, which holds surprises (`on` is true, `1e-5` is text, `010` is 8). Kinds
look at the text as written: what can mean only one thing is taken, the rest is explained.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import TypeAlias

from pi0q.jobs import start_point
from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, SequenceNode

#: What a flag of the trainer may hold. Mappings hold text only (`rename_map`).
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
#: What Python prints for nothing; YAML reads it as a text.
PYTHON_NULL = "None"
#: Called with the node at fault and a sentence that follows its key: ("must be …").
Tell: TypeAlias = Callable[[Node, str], None]

_TRUE = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
#: YAML 1.1 allows digits to be grouped by underscores; int() takes one between two digits only.
_INT = re.compile(r"[-+]?(0|[1-9](?:_?[0-9]){0,30})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REPO = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}")
_HUB_FILE = re.compile(rf"hf://datasets/{_REPO.pattern}(/[A-Za-z0-9][A-Za-z0-9._-]*){{1,6}}\.parquet")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bwandb_v1_\w{20,}|://[^/\s]*:[^/\s]*@")


def shown(node: Node) -> str:
    """A value as the user wrote it, fit to stand in a sentence."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    text = str(node.value)
    text = text if len(text) <= 40 else text[:37] + "…"
    text = text if text.isprintable() else ascii(text)[1:-1]
    return f"`{text}`" if text else "nothing"


def unprintable(text: str) -> str | None:
    """The first character that can't be seen (control, direction mark, half a surrogate), or None."""
    return next((f"U+{ord(char):04X}" for char in text if not char.isprintable()), None)


class ValueType:
    """Reads one node; the fallback for what isn't a scalar or is empty.

    Plain classes: a dozen frozen dataclasses would double the time this module takes to import.
    """

    #: Whether it is a mapping of any names, parts of which may be written with dots.
    open = False

    def __init__(self, *, nullable: bool = False) -> None:
        #: null is taken, and means "none".
        self.nullable = nullable

    @property
    def wants(self) -> str:
        """What would be right, to stand after "must be"."""
        return "a value"

    def read(self, node: Node, tell: Tell) -> Value:
        """The node's value; what is wrong goes to `tell`, and the value returned then means nothing."""
        if node.value == PYTHON_NULL:
            tell(node, f"is {PYTHON_NULL}, which is Python's word for nothing: leave the key out")
            return None
        if node.tag == "null":
            if not self.nullable:
                tell(node, f"is empty; it must be {self.wants} (or leave the key out)")
            return None
        if not isinstance(node, ScalarNode):
            tell(node, f"must be {self.wants}, not {shown(node)}")
            return None
        return self.scalar(node, tell)

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        raise NotImplementedError


class Bool(ValueType):
    @property
    def wants(self) -> str:
        return "true or false"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        if node.tag == "bool":
            return _TRUE[node.value.lower()]
        cure = ", without quotes" if node.value.lower() in _TRUE else ""
        tell(node, f"must be true or false{cure}, not {shown(node)}")
        return None


class Int(ValueType):
    def __init__(self, *, low: int = 0, high: int = 1_000_000_000, nullable: bool = False) -> None:
        super().__init__(nullable=nullable)
        self.low, self.high = low, high

    @property
    def wants(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        number = _whole(node.value) if node.tag in ("int", "float", "str") else None
        if number is not None and self.low <= number <= self.high:
            return number
        why = ""
        if re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            why = ": YAML reads a leading 0 as octal; write it without"
        elif node.tag == "int" and ":" in node.value:
            why = ": YAML reads digits with colons as base 60"
        tell(node, f"must be {self.wants}, not {shown(node)}{why}")
        return None


def _whole(text: str) -> int | None:
    if _INT.fullmatch(text):
        return int(text)
    number = _finite(text)
    return int(number) if number is not None and number == int(number) and not text.startswith("0") else None


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class Float(ValueType):
    def __init__(self, *, low: float = 0.0, high: float = 1e9, nullable: bool = False) -> None:
        super().__init__(nullable=nullable)
        self.low, self.high = low, high

    @property
    def wants(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        number = _finite(node.value) if node.tag in ("int", "float", "str") else None
        if number is not None and self.low <= number <= self.high:
            return number
        tell(node, f"must be {self.wants}, not {shown(node)}")
        return None


class Text(ValueType):
    def __init__(self, *, limit: int = 500, nullable: bool = False) -> None:
        super().__init__(nullable=nullable)
        #: Most characters taken.
        self.limit = limit

    @property
    def wants(self) -> str:
        return "text"

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        if node.tag == "bool":
            tell(node, self.not_bool(node.value, "true" if _TRUE[node.value.lower()] else "false"))
            return None
        text = unicodedata.normalize("NFC", _paired(node.value)).strip()
        fault = self.fault(text)
        if fault:
            tell(node, fault)
        return text

    def not_bool(self, word: str, truth: str) -> str:
        """What to say of a word that YAML 1.1 takes for a truth value."""
        return f'must be {self.wants}; YAML reads `{word}` as {truth}: write "{word}"'

    def fault(self, text: str) -> str | None:
        """What is wrong with this text, or None."""
        if not text:
            return f"is empty; it must be {self.wants} (or leave the key out)"
        if len(text) > self.limit:
            return f"has {len(text)} characters; at most {self.limit} are taken"
        bad = unprintable(text)
        if bad:
            return f"holds the character {bad}, which can't be seen or printed; write it on one line, without it"
        if _TOKEN.search(text):
            return "holds a token or password; take it out and renew it: tokens live on the box"
        # LeRobot's argument parser opens the file named after this word and puts its contents in its place.
        if text.startswith("include"):
            return "must not start with `include`: LeRobot would read a file of that name instead"
        # LeRobot 0.4 imports a package named by any argument that holds this word, even inside a value.
        if "discover_packages_path" in text:
            return "must not hold `discover_packages_path`: LeRobot would import code of that name"
        return None


def _paired(text: str) -> str:
    """Joins the halves in which JSON may write one character; a half alone stays, to be refused."""
    if not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text


class Word(Text):
    """Text that names nothing outside: no file, no repository. What a flag takes of which pi0q knows no more."""

    def fault(self, text: str) -> str | None:
        if not text:
            return None
        if "/" in text or "\\" in text or text.startswith(("~", ".")):
            return f"must not look like a path or a repository (`{text[:60]}`): pi0q doesn't know this flag as one"
        return super().fault(text)


class Choice(Text):
    def __init__(self, *options: str, nullable: bool = False, refused: Mapping[str, str] | None = None) -> None:
        super().__init__(nullable=nullable)
        self.options = options
        #: Names that people may try, and why they are not taken.
        self.refused = refused or {}

    @property
    def wants(self) -> str:
        return self.options[0] if len(self.options) == 1 else f"{', '.join(self.options[:-1])} or {self.options[-1]}"

    def not_bool(self, word: str, truth: str) -> str:
        return f"must be {self.wants}, not `{word}`, which YAML reads as {truth}"

    def fault(self, text: str) -> str | None:
        if text in self.options:
            return None
        if why := self.refused.get(text.lower()):
            return f"is {text[:40]}, which {why}"
        hint = next((option for option in self.options if option == text.lower()), None)
        return f"must be {self.wants}, not `{text[:40]}`" + (f": write {hint}" if hint else "")


class Repo(Text):
    """A Hugging Face repository, and with `path` also a directory on the box."""

    def __init__(
        self, *, path: bool = False, jobs: bool = False, nullable: bool = False, owners: tuple[str, ...] = ()
    ) -> None:
        super().__init__(nullable=nullable)
        #: `jobs`: whether a job's checkpoint is taken too; `owners`: whose repositories are taken, anybody's if none.
        self.path, self.jobs, self.owners = path, jobs, owners

    @property
    def wants(self) -> str:
        owner = " or ".join(self.owners) or "owner"
        others = [", an absolute path on the box"] * self.path + [", or job:NAME for a job's checkpoint"] * self.jobs
        return f"a Hugging Face repository ({owner}/name)" + "".join(others)

    def fault(self, text: str) -> str | None:
        if self.jobs and text.startswith(start_point.PREFIX):
            return super().fault(text) or start_point.fault(text)
        if _REPO.fullmatch(text) and ".." not in text and (not self.owners or text.partition("/")[0] in self.owners):
            return super().fault(text)
        if self.path and text.startswith("/"):
            return super().fault(text) or _path_fault(text)
        return super().fault(text) or f"must be {self.wants}, not `{text[:60]}`"


class DatasetName(Repo):
    """A dataset: owner/name, or a name alone for one that lies in dataset.root (LeRobot asks for no owner there)."""

    @property
    def wants(self) -> str:
        return "a dataset (owner/name; a name alone with dataset.root)"

    def fault(self, text: str) -> str | None:
        return Text.fault(self, text) if _NAME.fullmatch(text) and ".." not in text else super().fault(text)


class HubFile(Text):
    """A table in a dataset on the Hub."""

    @property
    def wants(self) -> str:
        return "a file of a dataset, like hf://datasets/owner/name/progress.parquet"

    def fault(self, text: str) -> str | None:
        taken = _HUB_FILE.fullmatch(text) and ".." not in text
        return super().fault(text) or (None if taken else f"must be {self.wants}, not `{text[:60]}`")


class PathType(Text):
    """A directory on the box: absolute, or below the box's PI0Q_HOME; with `hub` also hf://owner/name."""

    def __init__(self, *, hub: bool = False, relative: bool = True, nullable: bool = False) -> None:
        super().__init__(nullable=nullable)
        self.hub, self.relative = hub, relative

    @property
    def wants(self) -> str:
        base = "a directory on the box" + (" (absolute, or below its PI0Q_HOME)" if self.relative else ", absolute")
        return base + (" or hf://owner/name" if self.hub else "")

    def fault(self, text: str) -> str | None:
        fault = super().fault(text)
        if fault:
            return fault
        if self.hub and text.startswith("hf://"):
            return None if _REPO.fullmatch(text[5:]) else f"must be {self.wants}, not `{text[:60]}`"
        if not self.relative and not text.startswith("/"):
            return f"must be {self.wants}, not `{text[:60]}`"
        return _path_fault(text)


def _path_fault(text: str) -> str | None:
    if ".." in text.split("/") or text.startswith("~"):
        return f"must not hold `..` or start with `~`: write the whole path, not `{text[:60]}`"
    return None


class Name(Text):
    """What people call a job."""

    def __init__(self) -> None:
        super().__init__(limit=100)

    @property
    def wants(self) -> str:
        return "a name of at most 100 characters"

    def fault(self, text: str) -> str | None:
        if text.startswith("-"):
            return f"must not start with `-`: commands would take {text[:20]} for an option"
        return super().fault(text)


class ListOf(ValueType):
    """A list; with `size`, of exactly so many."""

    def __init__(self, of: ValueType, *, size: int | None = None, nullable: bool = False) -> None:
        super().__init__(nullable=nullable)
        self.of, self.size = of, size

    @property
    def wants(self) -> str:
        return f"a list{f' of {self.size}' if self.size else ''}, like [a, b]; each {self.of.wants}"

    def read(self, node: Node, tell: Tell) -> Value:
        if not isinstance(node, SequenceNode):
            return super().read(node, tell)
        if self.size is not None and len(node.value) != self.size:
            tell(node, f"must have {self.size} values, not {len(node.value)}")
        return [self.of.read(item, tell) for item in node.value]

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        tell(node, f"must be a list: write [{node.value[:40]}]")
        return None


class MapOf(ValueType):
    """A mapping of text to text, or to another kind."""

    open = True

    def __init__(self, of: ValueType | None = None) -> None:
        super().__init__()
        self.of = of or Text()

    @property
    def wants(self) -> str:
        return "a mapping, like {from: to}"

    def read(self, node: Node, tell: Tell) -> Value:
        if not isinstance(node, MappingNode):
            return super().read(node, tell)
        return {str(Text().read(key, tell)): self.of.read(value, tell) for key, value in node.value}

    def scalar(self, node: ScalarNode, tell: Tell) -> Value:
        tell(node, f"must be {self.wants}, not {shown(node)}")
        return None
