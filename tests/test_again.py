"""Failed tests are run once more: what that may excuse and what not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import again


def test_failed_reads_what_pytest_keeps(tmp_path: Path) -> None:
    (tmp_path / "lastfailed").write_text(json.dumps({"tests/b.py::two": True, "tests/a.py::one": True}))
    assert again.failed(tmp_path / "lastfailed") == ["tests/a.py::one", "tests/b.py::two"]
    assert again.failed(tmp_path / "none") == []


@pytest.mark.parametrize("code", [0, 1, 5])
def test_again_gives_the_code_of_the_second_run_and_names_what_passed(code: int) -> None:
    ran, said = list[Sequence[str]](), list[str]()

    def run(tests: Sequence[str]) -> int:
        ran.append(tests)
        return code

    assert again.again(["tests/a.py::one"], run, said.append) == code
    assert ran == [["tests/a.py::one"]]
    assert ("tests/a.py::one" in "".join(said)) is (code == 0)


@pytest.mark.parametrize("count", [0, again.MOST + 1])
def test_again_runs_nothing_when_no_test_or_too_many_failed(count: int) -> None:
    assert again.again([f"tests/a.py::{n}" for n in range(count)], lambda _: 0, lambda _: None) == 1
