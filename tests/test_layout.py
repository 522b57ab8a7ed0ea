"""The house itself: what lies where, what may know of what, and what a command pays for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("jobs", "queue", "workers", "ops")
#: Folders that are part of the package without a file that says so.
BARE = (
    *FOLDERS,
    "workers/run",
    "workers/after",
    "ops/checks",
    "ops/autodl",
    "queue/verbs",
    "queue/lua",
    "jobs/examples",
)
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST = 350


def dotted(path: Path) -> str:
    return ".".join(("pi0q", *path.relative_to(ROOT).with_suffix("").parts))


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
    assert "pi0q.queue.verbs.submit" in map(dotted, MODULES)


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
    assert "2 kept, 0 broken" in said


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_help_pays_for_nothing() -> None:
    code = "from pi0q.queue.cli import root\nroot.main(['--help'], standalone_mode=False)"
    assert loaded_by(code) & {"redis", "celery", "kombu", "yaml", "rich", "asyncio", "tomllib"} == set()


def test_submit_pays_only_for_what_it_uses() -> None:
    code = "import pi0q.queue.verbs.submit"
    assert loaded_by(code) & {"celery", "kombu", "rich", "huggingface_hub", "torch", "lerobot", "redis"} == set()


def test_the_trainer_hook_knows_nothing_of_us() -> None:
    """It runs in another interpreter, which has no pi0q."""
    code = "import sys; sys.path.insert(0, 'workers/run'); import pi0q_trainer.start"
    assert loaded_by(code) & {"pi0q", "redis", "celery", "click", "yaml"} == set()
