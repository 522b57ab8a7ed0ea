"""The house itself: what lies where, what may know of what, and what a command pays for."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("jobs", "queue", "workers", "ops")
#: Folders that are part of the package without a file that says so.
BARE = tuple(
    sorted(
        str(folder.relative_to(ROOT))
        for top in FOLDERS
        for folder in [ROOT / top, *(ROOT / top).rglob("*")]
        if folder.is_dir() and folder.name not in ("__pycache__", "pi0q_trainer")
    )
)
LUA = ROOT / "queue" / "lua"
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
#: Lines of a function, and attributes of a class that is neither a record nor the settings.
LONGEST_FUNCTION, MOST_ATTRIBUTES = 40, 15
#: Modules that are processes and do not end in `_main`: an address on boxes' disks, and a directory that is started.
OTHER_PROCESSES = frozenset({"queue/cli.py", "workers/trainer/pi0q_trainer/__main__.py"})
#: What setuptools takes into the package, see `package-data`.
PRODUCT_SUFFIXES = (".py", ".lua", ".yaml", ".sh", ".tsv", ".typed", ".css", ".html", ".js")
#: Kept for one release: what processes of the version before the move of all modules (commit d9c1fa2) start, import or
#: read by its old place when the package is upgraded below them; tests/scenarios/upgrade tries them. The release after
#: removes these files, their lines of pyproject.toml (`packages`, a contract, a dependency of `dev`), the second of
#: `launcher.MODULES` and tests/scenarios/upgrade.
#: Everything else of an old process is in its memory: what a function imports late, of pi0q's own, is loaded by then.
#: Without an old address: what a command of seconds starts, as `pi0q doctor`, which says that it got no answer.
OLD_ADDRESSES = (
    "ops/keeper.py",
    "queue/lua/after.lua",
    "queue/lua/claim.lua",
    "queue/lua/keep.lua",
    "queue/lua/wish.lua",
    "workers/after/upload.py",
    "workers/look_at_trainer.py",
    "workers/run/copying.py",
    "workers/run/download.py",
    "workers/run/inquiry.py",
    "workers/run/pi0q_trainer/__main__.py",
    "workers/run/pi0q_trainer/loader/pi0q_dice.py",
    "workers/run/runner.py",
)


def dotted(path: Path) -> str:
    return ".".join(("pi0q", *path.relative_to(ROOT).with_suffix("").parts))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def runs_as_a_process(path: Path) -> bool:
    return '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")


def python(*args: str) -> str:
    """What an interpreter says that starts in the root, as a developer's does."""
    done = subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """The top-level packages that an interpreter has loaded after `code`."""
    said = python("-c", f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))").splitlines()[-1]
    return {name.partition(".")[0] for name in json.loads(said)}


def test_the_rooms_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)
    assert "pi0q.queue.commands.submit" in map(dotted, MODULES)


@pytest.mark.parametrize("folder", BARE)
def test_no_folder_has_an_init(folder: str) -> None:
    """A queue/__init__.py would take the place of the standard library's queue wherever the root is on sys.path."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_standard_librarys_queue_is_intact_in_the_root() -> None:
    where = python("-c", "import queue, sys; assert '' in sys.path; queue.Queue(); print(queue.__file__)").strip()
    assert not Path(where).is_relative_to(ROOT)
    assert python("-m", "pytest", "--version").startswith("pytest ")
    assert python("-m", "celery", "--version").startswith("5.")


def test_no_file_takes_the_name_of_the_standard_librarys() -> None:
    """The folder of a script that is run is the first that Python looks into."""
    names = {path.stem for path in MODULES} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    names |= {path.stem for path in ROOT.glob("*.py")}
    assert names & sys.stdlib_module_names == {"queue"}


def test_every_module_can_be_imported() -> None:
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(len(sys.argv) - 1)"
    assert python("-c", code, *map(dotted, MODULES)) == f"{len(MODULES)}\n"


def test_left_knows_nothing_of_right() -> None:
    said = python("-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])")
    assert f"{len(PYPROJECT['tool']['importlinter']['contracts'])} kept, 0 broken" in said


def test_old_addresses_are_those_that_are_listed() -> None:
    """They are no more than addresses, and lie where nothing else does."""
    told = {str(path.relative_to(ROOT)) for path in MODULES if docstring(path).startswith("Kept for one release:")}
    scripts = {path: path.is_symlink() or "-- Kept for one release:" in path.read_text() for path in LUA.glob("*.lua")}
    told |= {str(path.relative_to(ROOT)) for path, kept in scripts.items() if kept}
    lie = {
        str(path.relative_to(ROOT)) for top in ("workers/run", "workers/after") for path in (ROOT / top).rglob("*.py")
    }
    assert told == set(OLD_ADDRESSES) and lie <= told


@pytest.mark.parametrize(
    "address", [name for name in OLD_ADDRESSES if "run_module" in (ROOT / name).read_text("utf-8")]
)
def test_an_old_address_starts_a_module_that_is_there(address: str) -> None:
    (target,) = re.findall(r'run_module\("pi0q\.([a-z_.]+)"', (ROOT / address).read_text(encoding="utf-8"))
    assert runs_as_a_process(ROOT / (target.replace(".", "/") + ".py"))


def test_every_folder_of_the_product_is_in_the_package() -> None:
    """One that is missing is there in an editable install and not in a wheel."""
    files = (path for top in FOLDERS for path in (ROOT / top).rglob("*") if path.suffix in PRODUCT_SUFFIXES)
    folders = {".".join(("pi0q", *path.parent.relative_to(ROOT).parts)) for path in files}
    assert folders == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_a_module_that_is_a_process_says_so_by_its_name() -> None:
    processes = {str(path.relative_to(ROOT)) for path in MODULES if runs_as_a_process(path)}
    named = {str(path.relative_to(ROOT)) for path in MODULES if path.stem.endswith("_main")}
    assert named <= processes
    assert processes - named - set(OLD_ADDRESSES) == OTHER_PROCESSES


def test_no_function_is_too_long_to_read() -> None:
    found = {
        f"{path.relative_to(ROOT)} {function.name}"
        for path, node in nodes()
        if isinstance(function := node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (function.end_lineno or 0) - function.lineno + 1 > LONGEST_FUNCTION
    }
    assert found == set()


def test_no_class_holds_too_much() -> None:
    found = {
        f"{path.relative_to(ROOT)} {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.ClassDef) and len(attributes(node)) > MOST_ATTRIBUTES
    }
    assert found == set()


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    """Every node of every module of the product."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def attributes(node: ast.ClassDef) -> set[str]:
    """What an instance can be given: the names that methods set on `self`, and a dataclass's fields unless frozen."""
    found = {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
        if isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    made_by = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(maker.startswith("dataclass") and "frozen=True" not in maker for maker in made_by):
        fields = (field.target for field in node.body if isinstance(field, ast.AnnAssign))
        found |= {field.id for field in fields if isinstance(field, ast.Name)}
    return found


def test_help_pays_for_nothing() -> None:
    code = "from pi0q.queue.cli import root\nroot.main(['--help'], standalone_mode=False)"
    assert loaded_by(code) & {"redis", "celery", "kombu", "yaml", "rich", "asyncio", "tomllib"} == set()


def test_submit_pays_only_for_what_it_uses() -> None:
    code = "import pi0q.queue.commands.submit"
    heavy = {"celery", "kombu", "rich", "huggingface_hub", "torch", "lerobot", "redis", "tree_sitter"}
    assert loaded_by(code) & heavy == set()


def test_the_trainer_hook_knows_nothing_of_us() -> None:
    """It runs in another interpreter, which has no pi0q."""
    code = "import sys; sys.path.insert(0, 'workers/trainer'); import pi0q_trainer.main"
    assert loaded_by(code) & {"pi0q", "redis", "celery", "click", "yaml"} == set()
