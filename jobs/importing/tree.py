"""Parts of the tree that tree-sitter makes of a shell script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

_REDIRECTIONS = frozenset({"file_redirect", "heredoc_redirect"})


def text(node: Node) -> str:
    """A node as the script writes it."""
    return (node.text or b"").decode()


def clauses(node: Node) -> Iterator[tuple[list[Node], list[Node]]]:
    """Condition and body of each branch of an `if`; `else` has no condition."""
    condition: list[Node] = []
    body: list[Node] = []
    for at, child in enumerate(node.children):
        if node.field_name_for_child(at) == "condition":
            condition += [child] if child.is_named else []
        elif child.type in ("elif_clause", "else_clause"):
            continue
        elif child.is_named:
            body.append(child)
    yield condition, body
    for child in node.named_children:
        if child.type == "elif_clause":
            inside = child.children
            then = next(at for at, part in enumerate(inside) if part.type == "then")
            yield [part for part in inside[:then] if part.is_named], [part for part in inside[then:] if part.is_named]
        elif child.type == "else_clause":
            yield [], list(child.named_children)


def case_parts(item: Node) -> tuple[list[str], list[Node]]:
    patterns: list[str] = []
    body: list[Node] = []
    for at, child in enumerate(item.children):
        if item.field_name_for_child(at) == "value":
            patterns.append(text(child))
        elif child.is_named:
            body.append(child)
    return patterns, body


def assigned(node: Node) -> Iterator[str]:
    """The variables that a piece of script sets."""
    if node.type == "variable_assignment":
        name = node.child_by_field_name("name")
        if name is not None:
            yield text(name).partition("[")[0]
    for child in node.named_children:
        yield from assigned(child)


def local_names(node: Node) -> Iterator[str]:
    if node.type == "declaration_command" and text(node).startswith("local"):
        yield from assigned(node)
    for child in node.named_children:
        yield from local_names(child)


def word_nodes(node: Node) -> list[Node]:
    """The nodes of a command's words: its name and its arguments.

    The tree counts what stands behind a redirection, as in `2>&1 --steps=5`, among its files; to a shell these are
    arguments too.
    """
    found: list[Node] = []
    for at, child in enumerate(node.children):
        if child.type in _REDIRECTIONS:
            found += _behind(child)
        elif node.field_name_for_child(at) in ("name", "argument") and child.type != "variable_assignment":
            found.append(child)
    around = node.parent
    if around is not None and around.type == "redirected_statement":
        found += [word for child in around.children if child.type in _REDIRECTIONS for word in _behind(child)]
    return found


def _behind(redirection: Node) -> list[Node]:
    """The words behind a redirection's file."""
    if redirection.type == "file_redirect":
        return redirection.children_by_field_name("destination")[1:]
    found = redirection.children_by_field_name("argument")
    return found + [word for child in redirection.children if child.type == "file_redirect" for word in _behind(child)]


def prefix_assignments(node: Node) -> tuple[list[Node], list[Node]]:
    """The assignments that the tree puts before a command's name: statements on lines of their own, and its own."""
    children = node.children
    found = [at for at, child in enumerate(children) if child.type == "variable_assignment"]
    source, start = node.text or b"", node.start_byte
    own_from = 0
    for at in found:
        if at + 1 < len(children):
            between = source[children[at].end_byte - start : children[at + 1].start_byte - start]
            if b"\n" in between.replace(b"\\\n", b""):
                own_from = at + 1
    return [children[at] for at in found if at < own_from], [children[at] for at in found if at >= own_from]
