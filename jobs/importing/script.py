"""A shell script, a command line or the cells of a notebook as text that a parser takes, and its commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.launchers import script_within
from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.shell import Command, Shell
from pi0q.jobs.importing.variables import Scope, Variable, Word

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

#: Blanks that a page or a chat puts in place of plain ones, and characters without width.
_BLANKS = {ord(char): " " for char in "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"} | dict.fromkeys(
    map(ord, "\u200b\u2060\ufeff")
)
_NOTEBOOK = re.compile(r"^[ \t]*!(?=[\w./$~])", re.MULTILINE)
#: The end of a line that goes on, as the shells of Windows write it.
_WINDOWS = re.compile(r"(?<=[ \t])[\^`][ \t]*$")
NEEDS = "pip install 'tree-sitter>=0.25,<0.27' 'tree-sitter-bash>=0.25,<0.26'"


@dataclass(frozen=True)
class Script:
    """What was read of a script."""

    #: Its lines, as they were parsed.
    lines: tuple[str, ...]
    commands: tuple[Command, ...]
    #: Lines on which the parser met something that is no shell.
    unreadable: tuple[int, ...]
    notebook: bool


def read(text: str, report: Report, values: Mapping[str, str] | None = None) -> Script:
    """Read a script's commands; `values` are variables that are set where it runs.

    Raises UsageError where the parser is not installed or the script is out of bounds.
    """
    text, notebook = clean(text, report)
    parser = _parser()

    def parse(source: str) -> Node:
        return parser.parse(source.encode("utf-8", "replace")).root_node

    given = {name: Variable(Word(value, 1), exported=True) for name, value in (values or {}).items()}
    shell = Shell(Scope(given), report, parse, script_within)
    try:
        root = parse(text)
        shell.read(root)
        unreadable = sorted({node.start_point.row + 1 for node in _broken(root)})
    except RecursionError:
        raise UsageError("The script is nested too deeply to be read; nothing was written.") from None
    return Script(tuple(text.split("\n")), tuple(shell.commands), tuple(unreadable), notebook)


def clean(text: str, report: Report) -> tuple[str, bool]:
    """The text without what editors, pages and notebooks put into it, line by line the same; whether it is a notebook.

    Lines keep their numbers.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    for at, line in enumerate(lines):
        plain = line.translate(_BLANKS)
        if plain != line:
            report.note(at + 1, "read blanks that are no plain spaces (U+00A0 and the like) as spaces")
        if _WINDOWS.search(plain) and plain.count("`") < 2:
            plain = _WINDOWS.sub(r"\\", plain)
            report.note(at + 1, "read the sign of Windows at the end of the line as `\\`: the command goes on")
        lines[at] = plain
    text = "\n".join(lines)
    return (_of_notebook(lines), True) if _NOTEBOOK.search(text) else (text, False)


def _of_notebook(lines: list[str]) -> str:
    """The commands of a notebook's cells: lines with `!` and those that they go on with; the rest is Python."""
    kept, goes_on = list[str](), False
    for line in lines:
        environment = re.match(r"[ \t]*%env[ \t]+(\w+)[ =]+(.*)", line)
        if goes_on:
            kept.append(line)
        elif environment:
            kept.append(f"export {environment[1]}={environment[2].strip()}")
        else:
            kept.append(_NOTEBOOK.sub("", line) if _NOTEBOOK.match(line) else "")
        goes_on = bool(kept[-1]) and kept[-1].endswith("\\")
    return "\n".join(kept)


def _parser() -> Parser:
    try:
        import tree_sitter_bash
        from tree_sitter import Language, Parser
    except ImportError as error:
        missing = (error.name or "tree_sitter").partition(".")[0].replace("_", "-")
        raise UsageError(
            f"`pi0q import` reads shell scripts with {missing}, which is not installed here; nothing was written.\n"
            f"Fix: {NEEDS}"
        ) from None
    return Parser(Language(tree_sitter_bash.language()))


def _broken(node: Node) -> list[Node]:
    """The nodes where the parser met something that is no shell."""
    if not node.has_error:
        return []
    if node.is_error or node.is_missing:
        return [node]
    return [broken for child in node.children for broken in _broken(child)]
