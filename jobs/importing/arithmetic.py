"""Numbers and tests of a shell, worked out where all that they hold is known."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from pi0q.jobs.importing.tree import text as node_text

if TYPE_CHECKING:
    from tree_sitter import Node

#: A shell's integers.
_LARGEST = 2**63 - 1

_NUMBERS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_TESTS: dict[str, Callable[[int, int], bool]] = {
    "-eq": operator.eq,
    "-ne": operator.ne,
    "-lt": operator.lt,
    "-le": operator.le,
    "-gt": operator.gt,
    "-ge": operator.ge,
}

#: Gives the text of a word of the script; None where it is unknown.
Lookup = Callable[["Node"], str | None]


def calculate(node: Node, lookup: Lookup) -> int | None:
    """The value of an arithmetic expression; None where it can't be told."""
    match node.type:
        case "binary_expression":
            return _binary(node, lookup)
        case "parenthesized_expression" | "arithmetic_expansion" | "compound_statement":
            inner = node.named_children
            return calculate(inner[0], lookup) if len(inner) == 1 else None
        case "unary_expression":
            inner = node.named_children
            value = calculate(inner[-1], lookup) if inner else None
            sign = node_text(node)[:1]
            return None if value is None else {"-": -value, "+": value, "!": int(not value)}.get(sign)
        case "ternary_expression":
            chosen = _field(node, "condition", lookup)
            return None if chosen is None else _field(node, "consequence" if chosen else "alternative", lookup)
    return whole(lookup(node))


def _binary(node: Node, lookup: Lookup) -> int | None:
    left, right = _field(node, "left", lookup), _field(node, "right", lookup)
    sign = node.child_by_field_name("operator")
    if left is None or right is None or sign is None:
        return None
    name = node_text(sign)
    if name in ("/", "%"):
        if right == 0:
            return None
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        return quotient if name == "/" else left - quotient * right
    if name == "**":
        return _bounded(left**right) if 0 <= right <= 63 and abs(left) < 2**32 else None
    return _bounded(int(_NUMBERS[name](left, right))) if name in _NUMBERS else None


def _field(node: Node, name: str, lookup: Lookup) -> int | None:
    child = node.child_by_field_name(name)
    return calculate(child, lookup) if child is not None else None


def _bounded(value: int) -> int | None:
    return value if abs(value) <= _LARGEST else None


def whole(text: str | None) -> int | None:
    """The number that a text is; None if it is none. An empty text is 0 to a shell."""
    if text is None:
        return None
    text = text.strip()
    if not text:
        return 0
    digits = text.removeprefix("-").removeprefix("+")
    plain = digits.isascii() and digits.isdigit() and (digits == "0" or not digits.startswith("0"))
    return _bounded(int(text)) if plain and len(digits) < 20 else None


def holds(node: Node, lookup: Lookup) -> bool | None:
    """Whether `[ … ]`, `[[ … ]]` or `(( … ))` holds; None where that depends on more than the script."""
    match node.type:
        case "compound_statement":
            value = calculate(node, lookup)
            return None if value is None else bool(value)
        case "test_command" | "parenthesized_expression" | "negated_command":
            inner = node.named_children
            if len(inner) != 1:
                return None
            value_of = holds(inner[0], lookup)
            return _not(value_of) if node.type == "negated_command" else value_of
        case "unary_expression":
            return _unary(node, lookup)
        case "binary_expression":
            return _comparison(node, lookup)
        case "word" | "string" | "raw_string" | "number" | "simple_expansion" | "expansion" | "concatenation":
            text = lookup(node)
            return None if text is None else bool(text)
    return None


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _unary(node: Node, lookup: Lookup) -> bool | None:
    sign, operand = node.child_by_field_name("operator"), node.named_children[-1]
    name = node_text(sign) if sign is not None else ""
    if name == "!":
        return _not(holds(operand, lookup))
    text = lookup(operand) if name in ("-z", "-n") else None
    return None if text is None else (text == "") == (name == "-z")


def _comparison(node: Node, lookup: Lookup) -> bool | None:
    sides = [node.child_by_field_name(side) for side in ("left", "right")]
    sign = node.child_by_field_name("operator")
    left, right = sides
    if left is None or right is None or sign is None:
        return None
    name = node_text(sign)
    if name in ("&&", "||", "-a", "-o"):
        both = [holds(left, lookup), holds(right, lookup)]
        decisive = name in ("||", "-o")
        return decisive if decisive in both else (None if None in both else not decisive)
    texts = lookup(left), lookup(right)
    if texts[0] is None or texts[1] is None:
        return None
    if name in _TESTS:
        numbers = whole(texts[0]), whole(texts[1])
        return None if numbers[0] is None or numbers[1] is None else _TESTS[name](numbers[0], numbers[1])
    if name in ("=", "==", "!="):
        # Whether the right side is a pattern depends on its quotes and brackets.
        return None if set(texts[1]) & set("*?[") else (texts[0] == texts[1]) == (name != "!=")
    return None
