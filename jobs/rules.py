"""One rule a key, and one walk over a file's nodes that holds them all against it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import yaml

from pi0q.jobs.document import line_of
from pi0q.jobs.errors import Fault
from pi0q.jobs.kinds import Kind, Value, shown, tag


class Rule(NamedTuple):
    """What one key takes."""

    #: Dotted path in the file: "resources.vram", "train.policy.dtype".
    key: str
    #: Reads and bounds its value.
    kind: Kind
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
        self.faults.append(Fault(self.lines.get(at, 1), f"{key} {text}"))


def walk(root: yaml.MappingNode, rules: Mapping[str, Rule], unknown: Callable[[str], str]) -> Found:
    """Reads every key under `root` by its rule. `unknown` words the fault of a key that has none.

    Sections may be nested or dotted (`policy: {type: pi0}` or `policy.type: pi0`), as on a command line.
    """
    found = Found()
    sections = {section for key in rules for section in _sections(key)}
    _walk(root, "", rules, sections, unknown, found)
    return found


def _walk(
    node: yaml.MappingNode,
    prefix: str,
    rules: Mapping[str, Rule],
    sections: Collection[str],
    unknown: Callable[[str], str],
    found: Found,
) -> None:
    here: set[str] = set()
    for key_node, value in node.value:
        key = _key(key_node, prefix, found)
        if key is None:
            continue
        if key in here or key in found.values:
            found.faults.append(Fault(line_of(key_node), f"{key} is given twice, first on line {found.lines[key]}"))
            continue
        here.add(key)
        found.lines.setdefault(key, line_of(key_node))
        if key in rules:
            found.values[key] = rules[key].kind.read(value, _teller(key, found))
        elif key not in sections:
            found.faults.append(Fault(line_of(key_node), f"{key} {unknown(key)}"))
        elif isinstance(value, yaml.MappingNode):
            _walk(value, f"{key}.", rules, sections, unknown, found)
        elif tag(value) != "null":  # an empty section says nothing, and nothing is wrong with that
            inner = dict.fromkeys(
                rule[len(key) + 1 :].partition(".")[0] for rule in rules if rule.startswith(f"{key}.")
            )
            found.tell(key, f"must hold keys of its own ({', '.join([*inner][:4])} …), not {shown(value)}")


def _key(node: yaml.Node, prefix: str, found: Found) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        found.faults.append(Fault(line_of(node), f"a key must be a word, not {shown(node)}"))
        return None
    if tag(node) == "merge":
        found.faults.append(Fault(line_of(node), "`<<` (a merge) is not taken; write the values out"))
        return None
    return prefix + str(node.value)


def _teller(key: str, found: Found) -> Callable[[yaml.Node, str], None]:
    def tell(node: yaml.Node, text: str) -> None:
        line = line_of(node) if node.start_mark is not None else found.lines[key]
        found.faults.append(Fault(line, f"{key} {text}"))

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
