"""What a shell script's assignments and declarations do to its variables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pi0q.jobs.importing.tree import text
from pi0q.jobs.importing.variables import Scope, Unknown, Value, Word, forget
from pi0q.jobs.importing.words import Expander

if TYPE_CHECKING:
    from tree_sitter import Node


class Assignments:
    """Reads assignments into one scope."""

    def __init__(self, scope: Scope, expander: Expander) -> None:
        self.scope, self.expander = scope, expander

    def assign(self, node: Node, *, export: bool = False) -> None:
        """Read `NAME=value`, `NAME+=value` or `NAME=(…)`."""
        target, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if target is None:
            return
        line, adds = self.expander.line(node), any(child.type == "+=" for child in node.children)
        if target.type == "subscript":
            self._item(target, value, line)
            return
        name = text(target)
        if value is not None and value.type == "array" and any(map(_has_key, value.named_children)):
            self._keyed(name, value, adds=adds)
            return
        new = self._value(value, line)
        self.scope.set(name, _sum(self.scope.get(name), new) if adds else new, export=export)

    def _keyed(self, name: str, array: Node, *, adds: bool) -> None:
        """`NAME=([key]=value …)`: each item is a variable of its own."""
        if not (adds and name in self.scope.keyed):
            self.begin_keyed(name, self.expander.line(array))
        for node in array.named_children:
            word = self.expander.text(node)
            item = re.fullmatch(r"\[(.*?)\]=(.*)", word.text, re.DOTALL)
            if item and node.type != "comment":
                self.scope.set(f"{name}[{item[1]}]", Word(item[2], word.line, word.unknown))

    def begin_keyed(self, name: str, line: int) -> None:
        """An array with keys, and nothing in it yet."""
        source = f"${{{name}[…]}}"
        self.scope.set(name, Word(source, line, (Unknown(source, "which has no such key in the script"),)))
        self.scope.keyed |= {name}

    def _item(self, target: Node, value: Node | None, line: int) -> None:
        """`NAME[key]=value`."""
        name, index = text(target).partition("[")[0], target.child_by_field_name("index")
        key = self.expander.text(index) if index is not None else None
        if name in self.scope.keyed and key is not None and key.known:
            self.scope.set(f"{name}[{key.text}]", self._value(value, line))
        else:
            forget(self.scope, [name], line, f"of which line {line} sets one item")

    def _value(self, value: Node | None, line: int) -> Value:
        if value is None:
            return Word("", line)
        if value.type != "array":
            return self.expander.text(value)
        return tuple(self.expander.words(child for child in value.named_children if child.type != "comment"))

    def declare(self, node: Node) -> None:
        """Read `export`, `declare`, `local`, `readonly`."""
        export = text(node).startswith("export") or bool(re.match(r"(declare|typeset)\s+-\w*x", text(node)))
        for child in node.named_children:
            if child.type == "variable_assignment":
                self.assign(child, export=export)
            elif child.type == "variable_name" and export:
                self.scope.export(text(child))
            elif child.type == "variable_name" and re.match(r"(declare|typeset|local)\s+-\w*A", text(node)):
                self.begin_keyed(text(child), self.expander.line(child))

    def unset(self, node: Node) -> None:
        """Read `unset`."""
        for child in node.named_children:
            if child.type == "variable_name":
                self.scope.drop_items(text(child))
                self.scope.variables.pop(text(child), None)


def _sum(before: Value | None, new: Value) -> Value:
    """`A+=…`."""
    if isinstance(before, tuple) or isinstance(new, tuple):
        old = before if isinstance(before, tuple) else ((before,) if before is not None else ())
        return (*old, *(new if isinstance(new, tuple) else (new,)))
    if before is None:
        return new
    return Word(before.text + new.text, new.line, before.unknown + new.unknown)


def _has_key(item: Node) -> bool:
    """Whether an item of an array says its key: `[key]=value`."""
    return text(item).startswith("[") and "]=" in text(item)
