"""One rule a key, and one walk over a file's nodes that holds them all against it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pi0q.jobs.errors import Fault
from pi0q.jobs.schema import full_width
from pi0q.jobs.schema.nodes import MappingNode, Node, ScalarNode, line_of
from pi0q.jobs.schema.value_types import Value, ValueType, shown


class Rule(NamedTuple):
    """What one key takes."""

    #: Dotted path in the file: "resources.vram", "train.policy.dtype".
    key: str
    #: Reads and bounds its value.
    kind: ValueType
    #: One sentence for people: what it does, and what happens when it is left out.
    says: str


class Found:
    """What a walk brought home."""

    def __init__(self) -> None:
        #: Values by dotted key, in file order. A value whose key is at fault means nothing.
        self.values: dict[str, Value] = {}
        #: Line of every key met, sections included.
        self.lines: dict[str, int] = {}
        self.faults: list[Fault] = []

    def tell(self, key: str, text: str) -> None:
        """Adds a fault at that key's line, or at the nearest section above it."""
        at = key
        while at and at not in self.lines:
            at = at.rpartition(".")[0]
        self.faults.append(Fault(self.lines.get(at, 1), text, key))


class Rules(Mapping[str, Rule]):
    """Rules by key; a table of a thousand answers without being read whole."""

    @abstractmethod
    def has_section(self, section: str) -> bool:
        """Return whether there are keys below this one, `resources` for `resources.gpus`."""


def walk(root: MappingNode, rules: Rules, unknown: Callable[[str], str]) -> Found:
    """Reads every key under `root` by its rule. `unknown` words the fault of a key that has none.

    Sections may be nested or dotted (`policy: {type: pi0}` or `policy.type: pi0`), as on a command line.
    """
    found = Found()
    _walk(root, "", rules, unknown, found)
    return found


def _walk(
    node: MappingNode,
    prefix: str,
    rules: Rules,
    unknown: Callable[[str], str],
    found: Found,
) -> None:
    here: set[str] = set()
    for key_node, value in node.value:
        key = _key(key_node, prefix, found)
        if key is None:
            continue
        if key in here or key in found.values:
            found.faults.append(Fault(line_of(key_node), f"is given twice, first on line {found.lines[key]}", key))
            continue
        here.add(key)
        found.lines.setdefault(key, line_of(key_node))
        if key in rules:
            found.values[key] = rules[key].kind.read(value, _teller(key, found))
        elif (above := _map_above(key, rules)) is not None:
            _read_into(above, key, value, rules, found)
        elif not rules.has_section(key):
            sign = full_width.advice(key)
            found.faults.append(Fault(line_of(key_node), f"is not a key: {sign}" if sign else unknown(key), key))
        elif isinstance(value, MappingNode):
            _walk(value, f"{key}.", rules, unknown, found)
        elif value.tag != "null":  # an empty section says nothing, and nothing is wrong with that
            inner = dict.fromkeys(
                rule[len(key) + 1 :].partition(".")[0] for rule in rules if rule.startswith(f"{key}.")
            )
            found.tell(key, f"must hold keys of its own ({', '.join([*inner][:4])} …), not {shown(value)}")


def _map_above(key: str, rules: Mapping[str, Rule]) -> str | None:
    """Return the key whose mapping holds this one: "tfs" for "tfs.affine.weight"."""
    return next((above for above in _sections(key) if above in rules and rules[above].kind.open), None)


def _read_into(above: str, key: str, value: Node, rules: Mapping[str, Rule], found: Found) -> None:
    """Read a part of a mapping that is written with dots; other parts may have been read before."""
    for name in reversed(key[len(above) + 1 :].split(".")):
        value = MappingNode("map", [(ScalarNode("str", name), value)])
    found.lines.setdefault(above, found.lines[key])
    part = rules[above].kind.read(value, _teller(above, found))
    there = found.values.get(above)
    found.values[above] = _joined(there, part) if isinstance(there, dict) and isinstance(part, dict) else part


def _joined(there: dict[str, Value], part: dict[str, Value]) -> dict[str, Value]:
    joined = dict(there)
    for name, value in part.items():
        old = joined.get(name)
        joined[name] = _joined(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return joined


def _key(node: Node, prefix: str, found: Found) -> str | None:
    if not isinstance(node, ScalarNode):
        found.faults.append(Fault(line_of(node), f"a key must be a word, not {shown(node)}"))
        return None
    if node.tag == "merge":
        found.faults.append(Fault(line_of(node), "`<<` (a merge) is not taken; write the values out"))
        return None
    return prefix + str(node.value)


def _teller(key: str, found: Found) -> Callable[[Node, str], None]:
    def tell(node: Node, text: str) -> None:
        line = line_of(node) if node.line is not None else found.lines[key]
        sign = full_width.advice(str(node.value)) if isinstance(node, ScalarNode) else ""
        found.faults.append(Fault(line, f"{text}; {sign}" if sign else text, key))

    return tell


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key or section most likely meant: a sibling spelt alike, or the same word elsewhere."""
    import difflib  # only a file with faults needs it

    every = {part for name in known for part in (name, *_sections(name))}
    section, _, last = key.rpartition(".")
    words: dict[str, list[str]] = {}
    for name in sorted(every):
        words.setdefault(name.rpartition(".")[2], []).append(name)
    for word in [last] if last in words else difflib.get_close_matches(last, list(words), n=3, cutoff=0.75):
        near = sorted(words[word], key=lambda name: (name.rpartition(".")[0] != section, len(name)))
        if len(near) == 1 or near[0].rpartition(".")[0] == section:
            return near[0]
    return None


def _sections(key: str) -> list[str]:
    return [key[:dot] for dot, char in enumerate(key) if char == "."]
