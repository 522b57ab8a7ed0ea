"""Command lines as the public writes them come out as data/expected.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi0q.jobs.importing.importer import decode, import_text
from pi0q.jobs.spec import parse

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


def as_text(value: object) -> str:
    return json.dumps(value).strip('"')


def test_every_file_has_its_expectation() -> None:
    assert {path.name for path in DATA.iterdir() if path.suffix in (".sh", ".txt")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_public_command_comes_out_as_expected(name: str) -> None:
    expected = EXPECTED[name]
    made = import_text(decode((DATA / name).read_bytes(), name), name=name)
    assert bool(made.faults) == (expected["exit"] == 2), made.faults
    assert bool(made.text) == (expected["exit"] == 0)
    if made.text:
        spec = parse(made.text, filename=name)
        assert {flag: as_text(spec.train[flag]) for flag in expected["flags"]} == expected["flags"]
        assert (spec.resources.gpus or 1) == expected["gpus"]
    told = "\n".join(note.text for note in made.notes)
    assert [word for word in expected["notes_name"] if word not in told] == []


def test_a_lost_backslash_names_its_line() -> None:
    (fault,) = import_text((DATA / "16-lost-backslash.sh").read_text("utf-8")).faults
    assert fault.line == 3 and "line 2 does not end with `\\`" in fault.text


def test_a_comment_within_a_command_names_its_line() -> None:
    (fault,) = import_text((DATA / "17-comment-between.sh").read_text("utf-8")).faults
    assert fault.line == 3 and "line 2 is a comment" in fault.text


def test_a_mapping_over_lines_is_one_value() -> None:
    train = yaml.safe_load(import_text((DATA / "05-json-over-lines.sh").read_text("utf-8")).text)["train"]
    assert len(train["rename_map"]) == 2


def test_mixed_precision_of_accelerate_is_carried_over() -> None:
    made = import_text((DATA / "02-accelerate-which.sh").read_text("utf-8"))
    assert parse(made.text, filename="x").mixed_precision == "bf16"


def test_the_resume_branch_is_named() -> None:
    made = import_text((DATA / "07-resume-branch-first.sh").read_text("utf-8"))
    assert any(note.line == 3 and "continues a training" in note.text for note in made.notes)
