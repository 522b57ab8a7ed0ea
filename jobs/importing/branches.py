"""Branches and loops of a shell script: followed where the script decides them, each way looked at where it doesn't."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from pi0q.jobs.importing.arithmetic import holds
from pi0q.jobs.importing.tree import assigned, case_parts, clauses, text
from pi0q.jobs.importing.variables import Scope, forget, merge
from pi0q.jobs.importing.words import Expander

if TYPE_CHECKING:
    from tree_sitter import Node

#: A test or a loop that looks at the script's arguments.
_ARGUMENTS = re.compile(r"\$\{?[0-9@*#]|\bgetopts\b")
_CONSTANTS = {"true": True, ":": True, "false": False}


class Shell(Protocol):
    """What reads a script's statements: jobs/importing/shell.py."""

    scope: Scope
    expander: Expander

    def line(self, node: Node) -> int:
        """The line on which a node starts."""

    def each(self, nodes: Iterable[Node]) -> None:
        """Read statements in their order."""

    def statement(self, node: Node) -> None:
        """Read one statement."""

    def fork(self, where: str, nodes: Iterable[Node]) -> Scope:
        """Read one way through the script on variables of its own; return them."""

    def note_arguments(self, line: int, source: str) -> None:
        """Note that the script uses its arguments."""


def _if(shell: Shell, node: Node) -> None:
    line, ways = shell.line(node), list[Scope]()
    where, decided = f"in a branch of the `if` on line {line}", False
    for condition, body in clauses(node):
        truth = False if decided else _condition(shell, condition) if condition else True
        if truth is False:
            shell.fork(f"{where}, which the script as it stands does not take", body)
            continue
        depends = any(_ARGUMENTS.search(text(part)) for part in condition)
        decided = bool(truth)
        if truth and not ways and not depends:
            shell.each(body)
            continue
        way = shell.fork(where, body)
        if truth and depends and way.ended:
            # Without arguments the script only says how it is used; who imports it means the rest.
            decided = False
            continue
        ways.append(way)
    if not decided:
        ways.append(shell.scope.copy())
    if ways:
        merge(shell.scope, ways, line, "the `if`")


def _condition(shell: Shell, parts: list[Node]) -> bool | None:
    """Read a condition's commands; return whether it holds, None where only a run tells."""
    shell.each(parts[:-1])
    truth, tested = _outcome(shell, parts[-1])
    return truth if tested else None


def _outcome(shell: Shell, node: Node) -> tuple[bool | None, bool]:
    """Read a part of `A && B`; return whether it succeeds and whether a test says so: a command is taken to succeed."""
    if node.type == "list":
        return _list_outcome(shell, node)
    if node.type == "negated_command" and node.named_children[0].type not in ("test_command", "compound_statement"):
        shell.statement(node.named_children[0])
        return None, True
    if node.type in ("test_command", "negated_command") or text(node).startswith("(("):
        return holds(node, shell.expander.lookup), True
    if node.type == "command" and (constant := _CONSTANTS.get(text(node))) is not None:
        return constant, True
    shell.statement(node)
    return True, False


def _list(shell: Shell, node: Node) -> None:
    _list_outcome(shell, node)


def _list_outcome(shell: Shell, node: Node) -> tuple[bool | None, bool]:
    """`A && B`, `A || B`."""
    left, right = node.named_children[0], node.named_children[-1]
    either = any(child.type == "||" for child in node.children)
    truth, tested = _outcome(shell, left)
    line = shell.line(node)
    if truth is None:
        way = shell.fork(f"behind a condition on line {line}", [right])
        merge(shell.scope, [way, shell.scope.copy()], line, "the condition")
        return None, True
    if truth is not either:
        return _outcome(shell, right)
    if not tested:
        # Of `lerobot-train --resume=true || lerobot-train …` both count.
        shell.fork(f"behind `||` on line {line}", [right])
    return truth, tested


def _case(shell: Shell, node: Node) -> None:
    line, value = shell.line(node), node.child_by_field_name("value")
    subject = shell.expander.lookup(value) if value is not None else None
    where = f"in a branch of the `case` on line {line}"
    ways, decided = list[Scope](), False
    for item in (child for child in node.named_children if child.type == "case_item"):
        patterns, body = case_parts(item)
        fits = False if decided else _fits(subject, patterns)
        if fits is False:
            shell.fork(f"{where}, which the script as it stands does not take", body)
            continue
        decided = bool(fits) or "*" in patterns
        if fits and not ways:
            shell.each(body)
        else:
            ways.append(shell.fork(where, body))
    if not decided:
        ways.append(shell.scope.copy())
    if ways:
        merge(shell.scope, ways, line, "the `case`")


def _fits(subject: str | None, patterns: list[str]) -> bool | None:
    """Whether a `case` takes the branch of these patterns; None where that can't be told."""
    if "*" in patterns:
        return None if subject is None else True
    if subject is None or any(set(pattern) & set("*?[$`") for pattern in patterns):
        return None
    return subject in [pattern.strip("\"'") for pattern in patterns]


def _for(shell: Shell, node: Node) -> None:
    name_node, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
    listed = [child for at, child in enumerate(node.children) if node.field_name_for_child(at) == "value"]
    words = shell.expander.words(listed)
    name, line = text(name_node) if name_node is not None else "", shell.line(node)
    if body is None:
        return
    if len(words) == 1 and words[0].known:
        shell.scope.set(name, words[0])
        shell.each([body])
        return
    told = ", ".join(word.text for word in words[:4]) + (" …" if len(words) > 4 else "")
    why = f"which the loop on line {line} sets to {told or 'one argument after the other'}"
    if not words:
        # Over the script's arguments: there are none, so that it changes nothing.
        outside = shell.scope.copy()
        forget(shell.scope, [name], line, why)
        _body(shell, node)
        shell.scope.variables = outside.variables
        return
    forget(shell.scope, [name], line, why)
    _body(shell, node)


def _while(shell: Shell, node: Node) -> None:
    condition = [child for at, child in enumerate(node.children) if node.field_name_for_child(at) == "condition"]
    named = [part for part in condition if part.is_named]
    if named and _ARGUMENTS.search(text(named[0])):
        # It reads the script's arguments: there are none, so that it changes nothing.
        shell.note_arguments(shell.line(node), "$@")
        outside = shell.scope.copy()
        _body(shell, node)
        shell.scope.variables = outside.variables
        return
    if named:
        _condition(shell, named)
    _body(shell, node)


def _body(shell: Shell, node: Node) -> None:
    """Read a loop's body: what it sets is unknown before, within and after."""
    line, body = shell.line(node), node.child_by_field_name("body")
    if body is None:
        return
    names, why = set(assigned(body)), f"which the loop on line {line} changes"
    forget(shell.scope, names, line, why)
    shell.fork(f"in the loop on line {line}", [body])
    forget(shell.scope, names, line, why)


#: Readers of the nodes that branch, by their type.
READERS: dict[str, Callable[[Shell, Node], None]] = {
    "if_statement": _if,
    "list": _list,
    "case_statement": _case,
    "for_statement": _for,
    "c_style_for_statement": _body,
    "while_statement": _while,
}
