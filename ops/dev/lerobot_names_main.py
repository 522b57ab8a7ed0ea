"""Writes jobs/safety/lerobot_names.py anew from LeRobot packages; nothing of them is imported or run.

    pip download --no-deps lerobot==0.4.4 -d WHEELS        once for each version
    python -m pi0q.ops.dev.lerobot_names_main WHEELS/*.whl > jobs/safety/lerobot_names.py

Each argument is a wheel or an installed package directory (…/site-packages/lerobot). Read by `ast`:

- the names under which processor steps register (`@ProcessorStepRegistry.register`), and the paths of all their
  classes that are not abstract;
- the names of policies (`@PreTrainedConfig.register_subclass`);
- which of them load code from a repository: a call with `trust_remote_code` that is not False can be reached from
  the step's class in its module, from a class of LeRobot that it imports when it is made, or lies anywhere in the
  policy's package.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HEADER = '''"""What LeRobot itself can build from a JSON file, by version. Generated: ops/dev/lerobot_names_main.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of one line of LeRobot versions."""

    #: `registry_name` of each processor step.
    steps: frozenset[str]
    #: `class` of each processor step, as LeRobot writes it: the module that defines it, and its name.
    classes: frozenset[str]
    #: Those of both that load code from the repository which their config names.
    code_steps: frozenset[str]
    #: `type` of each policy.
    policies: frozenset[str]
    #: Those that load code from a repository.
    code_policies: frozenset[str]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: By line: "0.6" speaks for 0.6.0, 0.6.1, …
'''
FIELDS = ("steps", "classes", "code_steps", "policies", "code_policies")


@dataclass
class Module:
    """One file of the package."""

    name: str
    tree: ast.Module
    #: Names of its top level: their definitions.
    top: dict[str, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                self.top[node.name] = node


def sources(package: Path) -> tuple[str, dict[str, str]]:
    """The version of a wheel or an installed package, and its modules' texts by dotted name."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            names = [name for name in wheel.namelist() if name.startswith("lerobot/") and name.endswith(".py")]
            texts = {name: wheel.read(name).decode("utf-8") for name in names}
        version = package.name.split("-")[1]
    else:
        files = sorted(package.rglob("*.py"))
        texts = {str(path.relative_to(package.parent)): path.read_text(encoding="utf-8") for path in files}
        version = next(package.parent.glob("lerobot-*.dist-info")).name.removesuffix(".dist-info").split("-")[1]
    dotted = {re.sub(r"(/__init__)?\.py$", "", name).replace("/", "."): text for name, text in texts.items()}
    return version, dotted


def runs_code(node: ast.AST) -> bool:
    """Whether `trust_remote_code` is given here as anything but False."""
    given = list[ast.expr]()
    for part in ast.walk(node):
        if isinstance(part, ast.keyword) and part.arg == "trust_remote_code":
            given.append(part.value)
        elif isinstance(part, ast.Dict):
            pairs = zip(part.keys, part.values, strict=True)
            given += [
                value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "trust_remote_code"
            ]
    return any(not isinstance(value, ast.Constant) or value.value for value in given)


def reached(module: Module, start: str, modules: Mapping[str, Module]) -> Iterator[ast.AST]:
    """What a definition of this module uses: itself, others of the module, classes of LeRobot imported inside it."""
    seen, todo = set[str](), [start]
    while todo:
        if (name := todo.pop()) in seen or name not in module.top:
            continue
        seen.add(name)
        yield module.top[name]
        for part in ast.walk(module.top[name]):
            if isinstance(part, ast.Name):
                todo.append(part.id)
            elif isinstance(part, ast.ImportFrom) and part.level == 0 and (part.module or "") in modules:
                other = modules[part.module or ""]
                yield from (other.top[alias.name] for alias in part.names if alias.name in other.top)


def registered(node: ast.ClassDef, registry: str, method: str) -> str | None:
    """The name under which a decorator registers a class; None if none does."""
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != f"{registry}.{method}":
            continue
        given = [*decorator.args, *(keyword.value for keyword in decorator.keywords if keyword.arg == "name")]
        if not given:
            return node.name
        # A name that is made at run time belongs to a step that only says it was removed.
        return given[0].value if isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else None
    return None


def step_classes(modules: Mapping[str, Module]) -> list[tuple[Module, ast.ClassDef]]:
    """All classes that inherit from ProcessorStep, by the names of their bases."""
    classes = [
        (module, node) for module in modules.values() for node in module.top.values() if isinstance(node, ast.ClassDef)
    ]
    known: set[str] = {"ProcessorStep"}
    while True:
        found = {
            node.name for _, node in classes if any(ast.unparse(base).split(".")[-1] in known for base in node.bases)
        }
        if found <= known:
            break
        known |= found
    return [(module, node) for module, node in classes if node.name in known]


def names_of(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """All that the table says of one version."""
    modules = {name: Module(name, ast.parse(text)) for name, text in texts.items()}
    found: dict[str, set[str]] = {name: set() for name in FIELDS}
    for module, node in step_classes(modules):
        if any(ast.unparse(base) == "ABC" for base in node.bases):
            continue
        step = registered(node, "ProcessorStepRegistry", "register")
        names = {f"{module.name}.{node.name}"} | ({step} if step else set())
        found["classes"].add(f"{module.name}.{node.name}")
        found["steps"] |= {step} if step else set()
        if any(runs_code(part) for part in reached(module, node.name, modules)):
            found["code_steps"] |= names
    for module in modules.values():
        for top in module.top.values():
            policy = isinstance(top, ast.ClassDef) and registered(top, "PreTrainedConfig", "register_subclass")
            if not policy:
                continue
            found["policies"].add(policy)
            package = module.name.rpartition(".")[0] + "."
            if any(runs_code(other.tree) for name, other in modules.items() if name.startswith(package)):
                found["code_policies"].add(policy)
    return found


def table(packages: list[Path]) -> str:
    """The module's text."""
    lines = [HEADER + "NAMES: dict[str, Names] = {"]
    for version, texts in sorted(sources(package) for package in packages):
        lines.append(f"    # read from lerobot {version}")
        lines.append(f'    "{".".join(version.split(".")[:2])}": Names(')
        for name, values in names_of(texts).items():
            words = textwrap.fill(" ".join(sorted(values)), 104, break_long_words=False, break_on_hyphens=False)
            lines.append(f'        {name}=_names("""')
            lines += [f"            {line}" for line in words.splitlines()]
            lines.append('        """),')
        lines.append("    ),")
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    sys.stdout.write(table([Path(argument) for argument in sys.argv[1:]]))
