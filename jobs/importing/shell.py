"""Walks a shell script from top to bottom without running it, and finds the commands that it would run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing import branches
from pi0q.jobs.importing.assignments import Assignments
from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.tree import (
    local_names,
    prefix_assignments,
    word_nodes,
)
from pi0q.jobs.importing.tree import text as node_text
from pi0q.jobs.importing.variables import Scope, Word, forget
from pi0q.jobs.importing.words import Expander

if TYPE_CHECKING:
    from tree_sitter import Node

#: Most statements looked at: functions that call one another can double the work with each line.
MOST_STATEMENTS = 20_000
#: Functions within functions, and scripts within scripts.
DEEPEST = 12
#: Environments that a script switches to; what they set does not matter to a training.
_HARMLESS_SOURCES = re.compile(r"(.*/)?(activate|\.?bashrc|\.profile|conda\.sh|network_turbo|setup\.(ba)?sh)")
#: Programs that run a command where the script's environment is not.
_ELSEWHERE = frozenset({"ssh", "docker", "docker-compose", "podman", "nerdctl", "kubectl"})
_SHELLS = frozenset({"bash", "sh", "zsh", "dash", "ssh"})


@dataclass
class Command:
    """One command of a script."""

    words: list[Word]
    line: int
    #: Environment that the script gives it: what it exports, then what stands before the command.
    environment: dict[str, Word]
    #: Where it stands, if not plainly on its way: "in the loop on line 3".
    where: str = ""
    #: Statements that follow and begin like a flag: a backslash was lost before them.
    strays: list[Word] = field(default_factory=list)


#: Gives the word of a command that is a script itself, as that of `bash -c`; None where there is none.
ScriptWithin = Callable[[Command], "Word | None"]


class Shell:
    """Reads the statements of one script in their order."""

    def __init__(
        self, scope: Scope, report: Report, parse: Callable[[str], Node], within: ScriptWithin, *, first_line: int = 1
    ) -> None:
        self.report, self.parse, self.within, self.first_line = report, parse, within, first_line
        self.commands: list[Command] = []
        self._functions: dict[str, Node] = {}
        self._called: set[str] = set()
        self._where: list[str] = []
        self._statements = 0
        self._last: Command | None = None
        self.enter(scope)

    def enter(self, scope: Scope) -> None:
        """Go on with these variables."""
        self.scope = scope
        self.expander = Expander(scope, first_line=self.first_line)
        self.assignments = Assignments(scope, self.expander)
        self.expander.on_arguments = self.note_arguments

    def read(self, root: Node) -> None:
        """Read a whole script, then the functions that it never calls."""
        self.each(root.named_children)
        for name in [name for name in self._functions if name not in self._called]:
            line = self.line(self._functions[name])
            with_arguments = self.scope.copy()
            with_arguments.ended = False
            before = self.scope
            self.enter(with_arguments)
            self._inside(f"in the function `{name}` on line {line}, which nothing calls", self._functions[name])
            self.enter(before)

    def line(self, node: Node) -> int:
        """The line on which a node starts, from 1."""
        return node.start_point.row + self.first_line

    # -- statements ---------------------------------------------------------------------------------

    def each(self, nodes: Iterable[Node]) -> None:
        """Read statements in their order, up to one that ends this way through the script."""
        for node in nodes:
            if self.scope.ended:
                return
            self.statement(node)

    def statement(self, node: Node) -> None:
        """Read one statement."""
        self._statements += 1
        if self._statements > MOST_STATEMENTS:
            raise UsageError("The script is too large or calls itself; nothing was written.")
        if self._stray(node):
            return
        readers: dict[str, Callable[[Node], None]] = {
            "command": self._command,
            "variable_assignment": self.assignments.assign,
            "declaration_command": self.assignments.declare,
            "unset_command": self.assignments.unset,
            "function_definition": self._function,
            "subshell": self._subshell,
            "redirected_statement": self._redirected,
        }
        if reader := readers.get(node.type):
            reader(node)
        elif branch := branches.READERS.get(node.type):
            branch(self, node)
        elif node.type not in ("comment", "test_command"):
            # A group, a pipe, a `!` or several assignments; of a part that can't be read, what can be.
            self.each(node.named_children)

    def _stray(self, node: Node) -> bool:
        """Keep a statement that begins like a flag: the line before lost its backslash."""
        text = node_text(node)
        if not text.startswith("--") or node.type not in ("command", "variable_assignment", "variable_assignments"):
            return False
        if self._last:
            self._last.strays.append(Word(text.split()[0], self.line(node)))
        return True

    def _inside(self, where: str, node: Node) -> None:
        """Read a body whose commands may not run, or not once."""
        self._where.append(where)
        body = node.child_by_field_name("body")
        self.each([body] if body is not None else node.named_children)
        self._where.pop()

    def fork(self, where: str, nodes: Iterable[Node]) -> Scope:
        """Read one way through the script on variables of its own; return them."""
        before, way = self.scope, self.scope.copy()
        way.ended = False
        self.enter(way)
        self._where.append(where)
        self.each(nodes)
        self._where.pop()
        self.enter(before)
        return way

    # -- functions and scripts within ---------------------------------------------------------------

    def _function(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        if name is not None:
            self._functions[node_text(name)] = node

    def _call(self, name: str, arguments: tuple[Word, ...] | None) -> None:
        """Read a function's body with its arguments (None: the script's own); what it makes local is as before then."""
        node = self._functions[name]
        self._called.add(name)
        body = node.child_by_field_name("body")
        if body is None or len(self._where) > DEEPEST:
            return
        outer, before = self.scope.arguments, dict(self.scope.variables)
        self.scope.arguments = arguments
        self._where.append("")
        self.each([body])
        self._where.pop()
        self.scope.arguments, self.scope.ended = outer, False
        for local in local_names(body):
            self.scope.variables.pop(local, None)
            if local in before:
                self.scope.variables[local] = before[local]

    def _subshell(self, node: Node) -> None:
        before, inner = self.scope, self.scope.copy()
        self.enter(inner)
        self.each(node.named_children)
        self.enter(before)

    def _nested(self, text: str, line: int, scope: Scope) -> None:
        """Read the text of a script that another command runs: `bash -c`, `tmux`, `ssh`, a here-document."""
        if len(self._where) > DEEPEST:
            return
        inner = Shell(scope, self.report, self.parse, self.within, first_line=line)
        inner._where = [*self._where]
        inner._statements = self._statements
        inner.read(self.parse(text))
        self._statements = inner._statements
        self.commands += inner.commands

    def _redirected(self, node: Node) -> None:
        body = node.child_by_field_name("body")
        if body is None:
            return
        self.statement(body)
        for redirect in (child for child in node.named_children if child.type == "heredoc_redirect"):
            text = next((child for child in redirect.named_children if child.type == "heredoc_body"), None)
            start = next((child for child in redirect.named_children if child.type == "heredoc_start"), None)
            words = [word.text for word in self.expander.words(body.named_children)] if body.type == "command" else []
            if text is not None and start is not None and words and words[0].rpartition("/")[2] in _SHELLS:
                quoted = node_text(start)[:1] in "'\"\\"
                self._nested(
                    node_text(text), self.line(text), self._inherited(words[0]) if quoted else self.scope.copy()
                )

    def _inherited(self, program: str) -> Scope:
        """The variables that a program's own shell sees: those exported, and on another machine none."""
        scope = self.scope.copy()
        elsewhere = program.rpartition("/")[2] in _ELSEWHERE
        scope.variables = {name: known for name, known in scope.variables.items() if known.exported and not elsewhere}
        return scope

    # -- commands and variables ---------------------------------------------------------------------

    def _command(self, node: Node) -> None:
        prefix = self._prefix(node)
        words = self.expander.words(word_nodes(node))
        if not words:
            return
        name = words[0].text
        if name.startswith("--") and self._last:
            # `"${MORE[@]}"` on a line of its own.
            self._last.strays.append(Word(words[0].text, self.line(node)))
            return
        self._last = Command(words, self.line(node), self._environment(prefix), self._place())
        if name in self._functions:
            hands_on = self.scope.arguments is None and re.search(r"\$\{?[@*]", node_text(node))
            self._call(name, None if hands_on else tuple(words[1:]))
        elif not self._builtin(name, words):
            self.commands.append(self._last)
            if script := self.within(self._last):
                self._nested(script.text, script.line, self._inherited(name))

    def _prefix(self, node: Node) -> dict[str, Word]:
        """The environment that stands before a command."""
        statements, own = prefix_assignments(node)
        for statement in statements:
            self.assignments.assign(statement)
        found = dict[str, Word]()
        for assignment in own:
            value = assignment.child_by_field_name("value")
            name = node_text(assignment).partition("=")[0]
            found[name] = self.expander.text(value) if value is not None else Word("", self.line(assignment))
        return found

    def _environment(self, prefix: dict[str, Word]) -> dict[str, Word]:
        exported = {
            name: value if isinstance(value, Word) else Word("", 0) for name, value in self.scope.exported().items()
        }
        return exported | prefix

    def _place(self) -> str:
        return next((where for where in self._where if where), "")

    def _builtin(self, name: str, words: list[Word]) -> bool:
        """Follow what a command of the shell itself does; return whether it is one that no training is behind."""
        rest = words[1:]
        if name in ("source", "."):
            if rest and not _HARMLESS_SOURCES.fullmatch(rest[0].text):
                self.scope.sourced = (*self.scope.sourced, (words[0].line, rest[0].text))
                self.report.note(words[0].line, f"did not read {rest[0].text}: what it sets is not in the job file")
        elif name in ("exit", "return", "break", "continue"):
            self.scope.ended = True
        elif name in ("read", "mapfile", "readarray", "getopts"):
            names = [word.text for word in rest if word.text.isidentifier()]
            forget(self.scope, names, words[0].line, f"which `{name}` on line {words[0].line} sets")
        elif name == "set":
            self._set(rest)
        elif name == "shift" and self.scope.arguments is not None:
            count = rest[0].text if rest else "1"
            self.scope.arguments = self.scope.arguments[int(count) if count.isdigit() else 1 :]
        elif name == "eval":
            if all(word.known for word in rest):
                self._nested(" ".join(word.text for word in rest), words[0].line, self.scope)
                return True
            return False
        elif name == "exec":
            self.scope.ended = bool(rest)
            return not rest
        else:
            return name in (":", "cd", "echo", "printf", "shift", "trap", "pushd", "popd", "test", "sleep", "mkdir")
        return True

    def _set(self, words: list[Word]) -> None:
        texts = [word.text for word in words]
        if texts[:1] in (["-a"], ["+a"]):
            self.scope.exports_all = texts[0] == "-a"
        if "--" in texts:
            self.scope.arguments = tuple(words[texts.index("--") + 1 :])

    def note_arguments(self, line: int, source: str) -> None:
        """Note that the script uses its arguments."""
        self.report.note(line, f"left out {source}: the arguments of the script, of which an import has none")
