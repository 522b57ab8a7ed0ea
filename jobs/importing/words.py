"""The words of a command as a shell makes them: quotes, variables, arrays, `${V:-default}`, `$(which …)`, arithmetic.

Nothing is run and nothing is guessed: what only a run would tell stays in the word as it is written, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pi0q.jobs.importing.arithmetic import calculate
from pi0q.jobs.importing.parameters import ansi, changed, unescaped
from pi0q.jobs.importing.tree import text as node_text
from pi0q.jobs.importing.variables import Fields, Scope, Unknown, Value, Word, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

#: Commands that answer where another one lies.
_WHERE = frozenset({"which", "command", "type", "whereis"})
_PARAMETER = re.compile(
    r"\$\{(?P<mark>[#!]?)(?P<name>[A-Za-z_]\w*|[0-9]+|[@*#?$!-])(?P<index>\[[^]]*\])?(?P<rest>.*)\}", re.DOTALL
)
_DEFAULTS = (":-", ":=", ":+", ":?", "-", "=", "+", "?")
#: Braces that a shell makes several words of: {a,b}, {1..3}.
_BRACES = re.compile(r"\{[^{}\s]*(?:,|\.\.)[^{}\s]*\}")
_SLICE = re.compile(r":\s*([0-9]+)(?::([0-9]+))?")
_NOT_WORKED_OUT = "which import does not work out"


class Expander:
    """Makes words of the nodes of one script."""

    def __init__(self, scope: Scope, *, first_line: int = 1) -> None:
        self.scope = scope
        self.first_line = first_line
        #: Called with the line where the script's own arguments are used.
        self.on_arguments: Callable[[int, str], None] = lambda line, source: None

    def line(self, node: Node) -> int:
        """The line on which a node starts, from 1."""
        return node.start_point.row + self.first_line

    def words(self, nodes: Iterable[Node]) -> list[Word]:
        """The words that a command gets of these nodes."""
        found = list[Word]()
        for node in nodes:
            fields = Fields(self.line(node))
            if braces := _BRACES.search(_unquoted(node)):
                unknown = Unknown(braces[0], "of which a shell makes several words: put quotes around it")
                fields.add(node_text(node), (unknown,))
            else:
                self._expand(node, fields, quoted=False)
            found += fields.all()
        return found

    def text(self, node: Node) -> Word:
        """The one word that an assignment or a test gets: blanks in values don't split it."""
        fields = Fields(self.line(node))
        self._expand(node, fields, quoted=True)
        words = fields.all()
        if not words:
            return Word("", self.line(node))
        unknown = tuple(part for word in words for part in word.unknown)
        return Word(" ".join(word.text for word in words), words[0].line, unknown)

    def lookup(self, node: Node) -> str | None:
        """A node's text in arithmetic or a test; None where it is unknown. The script has no arguments there."""
        if node.type == "variable_name":
            value = self.scope.get(node_text(node))
            word = Word(text_of(value), 0, _unknown_of(value)) if value is not None else None
            return word.text if word and word.known else ("" if word is None and not self.scope.sourced else None)
        if self.scope.arguments is None and (about := _argument(node_text(node))):
            self.on_arguments(self.line(node), "$@")
            return "0" if about == "#" else ""
        word = self.text(node)
        if word.known:
            return word.text
        unset = node.type in ("simple_expansion", "string") and all(part.why == NOT_SET for part in word.unknown)
        return "" if unset and node_text(node).strip('"') == word.unknown[0].source and not self.scope.sourced else None

    def _expand(self, node: Node, fields: Fields, *, quoted: bool) -> None:
        text = node_text(node)
        match node.type:
            case "word" | "number" | "regex" | "extglob_pattern" | "variable_name" | "special_variable_name":
                self._word(text, fields)
            case "raw_string":
                fields.add(text[1:-1])
            case "ansi_c_string":
                fields.add(ansi(text[2:-1]))
            case "string" | "translated_string":
                self._string(node, fields)
            case "concatenation" | "command_name":
                for child in node.children:
                    self._expand(child, fields, quoted=quoted)
            case "simple_expansion":
                self._variable(text[1:], text, fields, quoted=quoted)
            case "expansion":
                self._parameter(node, fields, quoted=quoted)
            case "command_substitution":
                self._add(self._substitution(node), fields, quoted=quoted)
            case "arithmetic_expansion":
                value = calculate(node, self.lookup)
                word = Word(str(value), self.line(node)) if value is not None else self._unknown(node)
                self._add(word, fields, quoted=quoted)
            case _ if not node.is_named and node.type not in ("(", ")"):
                fields.add(text)
            case _:
                self._add(self._unknown(node), fields, quoted=True)

    def _word(self, text: str, fields: Fields) -> None:
        if fields.empty and (text == "~" or text.startswith("~/")):
            fields.add(text, (Unknown("~", "which is the home directory where the script runs"),))
        else:
            fields.add(re.sub(r"\\(.)", r"\1", text.replace("\\\n", ""), flags=re.DOTALL))

    def _string(self, node: Node, fields: Fields) -> None:
        """A quoted string. Blanks at its start and between its parts belong to no node of the tree."""
        source, start = node.text or b"", node.start_byte
        inner = [child for child in node.children if child.type in _IN_STRINGS]
        at = source.index(b'"') + 1
        only = len(inner) == 1 and at == inner[0].start_byte - start and inner[0].end_byte - start == len(source) - 1
        if not only or not _is_array(node_text(inner[0])):
            fields.add("")
        for child in inner:
            if before := unescaped(source[at : child.start_byte - start]):
                fields.add(before)
            self._expand(child, fields, quoted=True)
            at = child.end_byte - start
        if source[at:-1]:
            fields.add(unescaped(source[at:-1]))

    def _variable(self, name: str, source: str, fields: Fields, *, quoted: bool) -> None:
        """`$NAME`, `$1`, `$@`."""
        value = self._value(name, source, fields.line)
        if isinstance(value, tuple) and name not in ("@", "*"):
            # Of an array without an index a shell takes the first word.
            value = value[0] if value else Word("", fields.line)
        self._add(value, fields, quoted=quoted, joined=name == "*")

    def _value(self, name: str, source: str, line: int) -> Value:
        """What a name stands for; a word that says why where it can't be told."""
        arguments = self.scope.arguments
        if name in ("@", "*"):
            if arguments is None:
                self.on_arguments(line, source)
            return arguments or ()
        if name.isdigit() and name != "0":
            if arguments is not None:
                return arguments[int(name) - 1] if int(name) <= len(arguments) else Word("", line)
            return Word(source, line, (Unknown(source, "an argument of the script"),))
        if name == "#" and arguments is not None:
            return Word(str(len(arguments)), line)
        value = self.scope.get(name)
        return value if value is not None else Word(source, line, (self._unset(source, name),))

    def _unset(self, source: str, name: str) -> Unknown:
        """A variable that the script does not set."""
        if name.isdigit():
            return Unknown(source, "an argument of the script")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            return Unknown(source, _NOT_WORKED_OUT)
        if self.scope.sourced:
            line, file = self.scope.sourced[-1]
            why = f"which is not set in the script ({file}, which line {line} reads in, was not read)"
            return Unknown(source, why, name)
        return Unknown(source, NOT_SET, name)

    def _parameter(self, node: Node, fields: Fields, *, quoted: bool) -> None:
        """`${NAME…}` in all its forms."""
        found = _PARAMETER.fullmatch(node_text(node))
        if not found or found["mark"] == "!":
            self._add(self._unknown(node), fields, quoted=True)
            return
        name, index, rest = found["name"], found["index"], found["rest"]
        unset = self._is_unset(name)
        value = self._value(name, node_text(node), fields.line)
        if index:
            value = self._item(node, name, value, index[1:-1])
        elif isinstance(value, tuple) and name not in ("@", "*"):
            value = value[0] if value else Word("", fields.line)
        joined = name == "*" or index == "[*]"
        operation = next((op for op in _DEFAULTS if rest.startswith(op)), None)
        if found["mark"] == "#":
            known = not _unknown_of(value)
            size = len(value) if isinstance(value, tuple) else len(value.text)
            self._add(
                Word(str(size), fields.line) if known and not rest else self._unknown(node), fields, quoted=quoted
            )
        elif operation:
            self._default(node, fields, operation, None if unset else value, quoted=quoted)
        elif not rest:
            self._add(value, fields, quoted=quoted, joined=joined)
        elif isinstance(value, tuple) and (piece := _SLICE.fullmatch(rest)):
            start = max(int(piece[1]) - (name in ("@", "*")), 0)
            words = value[start : start + int(piece[2])] if piece[2] else value[start:]
            self._add(words, fields, quoted=quoted, joined=joined)
        else:
            self._add(self._changed(node, value, rest), fields, quoted=quoted)

    def _item(self, node: Node, name: str, value: Value, index: str) -> Value:
        """`${NAME[index]}`, of an array with numbers or with keys."""
        if index in ("@", "*") or re.fullmatch(r"-?[0-9]+", index):
            found = None if name in self.scope.keyed else _indexed(value, index)
            return self._unknown(node) if found is None else found
        subscript = next((child for child in node.named_children if child.type == "subscript"), None)
        key = subscript.child_by_field_name("index") if subscript is not None else None
        word = self.text(key) if key is not None else None
        if word is None or not word.known:
            return self._unknown(node)
        if name in self.scope.keyed:
            return self.scope.get(f"{name}[{word.text}]") or value
        # Without keys an index is arithmetic: `${A[I]}` is `${A[$I]}`.
        number = self.scope.get(word.text)
        found = _indexed(value, text_of(number) if number is not None else word.text)
        return self._unknown(node) if found is None else found

    def _is_unset(self, name: str) -> bool:
        if name.isdigit():
            return self.scope.arguments is None or int(name) > len(self.scope.arguments)
        return name not in ("@", "*", "#") and self.scope.get(name) is None

    def _default(self, node: Node, fields: Fields, operation: str, value: Value | None, *, quoted: bool) -> None:
        """`${NAME:-default}` and its kin; `value` is None where the script hasn't set NAME."""
        name = _PARAMETER.fullmatch(node_text(node))
        assert name is not None
        if value is None and self.scope.sourced and not name["name"].isdigit():
            self._add(Word(node_text(node), fields.line, (self._unset(node_text(node), name["name"]),)), fields)
            return
        if value is None and name["name"].isdigit() and self.scope.arguments is None:
            self.on_arguments(fields.line, f"${name['name']}")
        empty = value is None or (operation.startswith(":") and not _unknown_of(value) and not text_of(value))
        sign = operation[-1]
        if sign == "+":
            if not empty:
                self._argument_of(node, fields, quoted=quoted)
        elif not empty and value is not None:
            self._add(value, fields, quoted=quoted)
        elif sign == "?":
            self._add(Word(node_text(node), fields.line, (self._unset(node_text(node), name["name"]),)), fields)
        else:
            self._argument_of(node, fields, quoted=quoted)
            if sign == "=" and (given := _argument_nodes(node)):
                self.scope.set(name["name"], self.text(given[0]))

    def _argument_of(self, node: Node, fields: Fields, *, quoted: bool) -> None:
        """What stands behind the operator of `${NAME:-…}`."""
        for child in _argument_nodes(node):
            if child.type in ("word", "concatenation", "number") and not quoted and " " in node_text(child):
                self._add(self.text(child), fields, quoted=False)
            else:
                self._expand(child, fields, quoted=quoted)

    def _changed(self, node: Node, value: Value, rest: str) -> Word:
        """`${NAME##*/}`, `${NAME/a/b}`, `${NAME,,}`, `${NAME:1:2}`."""
        if isinstance(value, tuple) or not value.known:
            return self._unknown(node)
        new = changed(value.text, rest)
        return self._unknown(node) if new is None else Word(new, self.line(node))

    def _substitution(self, node: Node) -> Word:
        """`$(which NAME)` is NAME; `$(basename …)` and `$(dirname …)` are worked out; all else runs something."""
        inner = node.named_children
        if len(inner) == 1 and inner[0].type == "command":
            words = self.words(inner[0].named_children)
            if words and all(word.known for word in words):
                name, *rest = [word.text for word in words]
                if name in _WHERE and rest:
                    return Word(rest[-1], self.line(node))
                if name == "basename" and len(rest) in (1, 2):
                    base = PurePosixPath(rest[0]).name
                    return Word(
                        base.removesuffix(rest[1]) if len(rest) == 2 and base != rest[1] else base, self.line(node)
                    )
                if name == "dirname" and len(rest) == 1:
                    return Word(str(PurePosixPath(rest[0]).parent), self.line(node))
        return Word(
            node_text(node), self.line(node), (Unknown(node_text(node), "which only a run of the script tells"),)
        )

    def _unknown(self, node: Node) -> Word:
        return Word(node_text(node), self.line(node), (Unknown(node_text(node), _NOT_WORKED_OUT),))

    def _add(self, value: Value, fields: Fields, *, quoted: bool = True, joined: bool = False) -> None:
        if isinstance(value, Word):
            if quoted:
                fields.add(value.text, value.unknown)
            else:
                fields.add_split(value)
        elif quoted and not joined:
            fields.add_array(value)
        elif quoted:
            fields.add(" ".join(word.text for word in value), tuple(part for word in value for part in word.unknown))
        else:
            for at, word in enumerate(value):
                if at:
                    fields.end()
                fields.add_split(word)


#: Why a variable has no value.
NOT_SET = "which is not set in the script"
_IN_STRINGS = frozenset({"simple_expansion", "expansion", "command_substitution", "arithmetic_expansion"})


def _is_array(source: str) -> bool:
    """Whether an expansion gives as many words as it holds, also in quotes: `$@`, `${A[@]}`."""
    return source in ("$@", "${@}") or "[@]" in source or source.startswith("${@:")


def _argument(source: str) -> str:
    """The name of the script's argument that a test looks at; "" if it is none."""
    found = re.fullmatch(r'"?\$\{?([0-9]+|[@*#])(?::?-)?\}?"?', source)
    return found[1] if found and found[1] != "0" else ""


def _unknown_of(value: Value | None) -> tuple[Unknown, ...]:
    if value is None:
        return ()
    words = (value,) if isinstance(value, Word) else value
    return tuple(part for word in words for part in word.unknown)


def _indexed(value: Value, index: str) -> Value | None:
    """An array's words at an index; None where that can't be told."""
    words = (value,) if isinstance(value, Word) else value
    if index in ("@", "*"):
        return words
    if index.lstrip("-").isdigit() and -len(words) <= int(index) < len(words):
        return words[int(index)]
    return None


def _argument_nodes(node: Node) -> list[Node]:
    """The nodes behind the operator of a `${…}`."""
    at = next((at for at, _ in enumerate(node.children) if node.field_name_for_child(at) == "operator"), None)
    return [] if at is None else [child for child in node.children[at + 1 :] if child.type != "}"]


def _unquoted(node: Node) -> str:
    """A word's text, with an `x` for each character in quotes."""
    if node.type in ("word", "number", "brace_expression") or not node.is_named:
        return re.sub(r"\\.", "xx", node_text(node), flags=re.DOTALL)
    if node.type in ("concatenation", "command_name"):
        return "".join(map(_unquoted, node.children))
    return "x"
