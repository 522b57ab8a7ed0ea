"""A value as it was read, before anything is known of its meaning: a scalar, a list or a mapping, and its line.

Job files in YAML (yaml_nodes.py) and records in JSON (`node_of`) give the same nodes, so that one reader serves both. A
command that reads records alone needs no PyYAML, whose import takes as long as the rest of `pi0q why`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Node:
    """One value. `tag` is the short name of its YAML type: "str", "int", "bool", "null", "map", "seq", "merge" …"""

    __slots__ = ("line", "tag", "value")

    def __init__(self, tag: str, value: Any, line: int | None = None) -> None:
        self.tag, self.value = tag, value
        #: Line on which it starts, from 1; None for a value that came from no file.
        self.line = line


class ScalarNode(Node):
    """A value written as one word; `value` is its text."""

    value: str
    __slots__ = ()


class SequenceNode(Node):
    """A list."""

    value: list[Node]
    __slots__ = ()


class MappingNode(Node):
    """A mapping: pairs of key and value, in the file's order."""

    value: list[tuple[Node, Node]]
    __slots__ = ()


def line_of(node: Node | None) -> int:
    """Return the line on which a node starts; 1 for a node that came from no file."""
    return node.line or 1 if node is not None else 1


def node_of(value: object) -> Node:
    """Return the node that YAML would give for a plain value of JSON."""
    if isinstance(value, Mapping):
        return MappingNode("map", [(node_of(str(key)), node_of(item)) for key, item in value.items()])
    if isinstance(value, Sequence) and not isinstance(value, str):
        return SequenceNode("seq", [node_of(item) for item in value])
    for type_, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if isinstance(value, type_):
            return ScalarNode(name, str(value) if isinstance(value, str) else repr(value))
    return ScalarNode("null", "null")
