"""The quick tier keeps a test of each fault, and CI runs every test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import FAULTS, QUICK, SLOW, is_below, is_slow

ROOT = Path(__file__).parents[1]
RESUME = "tests/workers/trainer/test_resume_real.py::test_act_killed_and_stopped_equals_the_run_that_never_was"


def recipe(target: str) -> str:
    """The lines of the Makefile below a target."""
    return (ROOT / "Makefile").read_text().split(f"\n{target}: ")[1].split("\n\n")[0]


def collected(*options: str) -> list[str]:
    """Ids of the tests that pytest collects with these options."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.fixture(scope="module")
def quick() -> list[str]:
    """What `make test` runs of the files that the tables name."""
    assert 'pytest -n $(WORKERS) --dist worksteal -q -m "not slow"' in recipe("test")
    names = [*QUICK, *(name for _, names in FAULTS.values() for name in names)]
    return collected("-m", "not slow", *sorted({name.partition("::")[0] for name in names}))


def test_table_has_each_row_of_the_faults() -> None:
    assert list(FAULTS) == list(range(1, 48))


@pytest.mark.parametrize("row", FAULTS)
def test_quick_tier_has_a_test_of_each_fault(row: int, quick: list[str]) -> None:
    _, names = FAULTS[row]
    assert names
    assert [name for name in names if not any(is_below(test, name) for test in quick)] == []


def test_quick_tier_has_a_kill_and_resume_of_the_real_lerobot(quick: list[str]) -> None:
    assert RESUME in quick


def test_quick_tier_has_all_its_exceptions(quick: list[str]) -> None:
    assert [name for name in QUICK if not any(is_below(test, name) for test in quick)] == []


def test_quick_tier_leaves_out_what_is_slow() -> None:
    assert is_slow("tests/nemesis/test_rounds.py::test_rounds")
    assert is_slow("tests/anything.py::test_it[case]", real=True) and not is_slow("tests/anything.py::test_it[case]")
    assert [name for name in SLOW if not (ROOT / name.partition("::")[0]).exists()] == []


def test_ci_runs_every_test() -> None:
    assert "\nmake test-all || make test-again\n" in (ROOT / ".ci" / "run").read_text()
    command = "$(IN) -m pytest -n $(WORKERS) --dist worksteal -q $(PYTEST)"
    assert recipe("test-all").strip().splitlines()[-1].strip() == command
    assert "addopts" not in recipe("test-all") and '"-m' not in (ROOT / "pyproject.toml").read_text()
