"""`pi0q import`: what a person types and reads; the reading itself is in tests/jobs/importing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import Command

LEAST = "lerobot-train --dataset.repo_id=a/b --policy.type=act --output_dir=/x"
FILE = "name: b\ntrain:\n  dataset:\n    repo_id: a/b\n  policy:\n    type: act\n"


def test_the_file_is_printed_and_what_was_left_out_is_told_beside_it(call: Command) -> None:
    said = call("import", LEAST)
    assert (said.returncode, said.stdout) == (0, FILE)
    assert said.stderr == "pi0q: left out --output_dir: each run has its own directory on the box's data disk\n"
    assert call("import", *LEAST.split()).stdout == FILE


def test_a_script_becomes_a_file_that_nothing_overwrites(call: Command, tmp_path: Path) -> None:
    script, made = tmp_path / "train.sh", tmp_path / "job.yaml"
    script.write_text(f"cd /x\n{LEAST}\n")
    said = call("import", str(script), "-o", str(made))
    assert said.stdout == f"Wrote {made}.  See what it needs: pi0q submit {made} --dry-run\n"
    assert made.read_text() == FILE
    again = call("import", str(script), "-o", str(made))
    assert again.returncode == 2 and "is there already; nothing was written" in again.stderr
    assert call("submit", str(made), "--dry-run").returncode == 0


def test_faults_are_told_and_nothing_is_written(call: Command, tmp_path: Path) -> None:
    made = tmp_path / "job.yaml"
    said = call("import", f"{LEAST} --stepps=5", "-o", str(made))
    assert said.returncode == 2 and "did you mean steps?" in said.stderr and "Traceback" not in said.stderr
    assert not made.exists()


def test_a_script_in_another_encoding_and_one_that_nests_without_end(call: Command, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_bytes(f"{LEAST}  # ".encode() + b"caf\xe9\n")
    assert call("import", str(script)).stdout == FILE
    said = call("import", f"{LEAST} --steps={'[' * 5000}")
    assert said.returncode == 2 and "--steps must be" in said.stderr


def test_notes_and_faults_are_told_together_with_their_lines(call: Command, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(f"export HF_HOME=/x\n{LEAST} \\\n  --steps=0 \\\n  --seed=$SEED\n")
    said = call("import", str(script))
    assert (said.returncode, said.stdout) == (2, "")
    assert [line.removeprefix("pi0q: ").replace(str(script), "F")[:24] for line in said.stderr.splitlines()] == [
        "F:1: left out HF_HOME: e",
        "F:2: left out --output_d",
        "2 errors in F; nothing w",
        "  F:3: --steps must be a",
        "  F:4: --seed is $SEED, ",
        "Fix: give what is not se",
    ]


def test_what_is_no_script_is_named(call: Command, tmp_path: Path) -> None:
    binary = tmp_path / "weights.bin"
    binary.write_bytes(b"\x00" * 10)
    for given, told in [
        ("/dev/null", "/dev/null is empty"),
        ("/dev/zero", "/dev/zero is over 8 MiB"),
        (str(binary), "is not text"),
        (str(tmp_path), "is a directory"),
        ("missing.sh", "Can't read missing.sh: No such file or directory"),
    ]:
        said = call("import", given)
        assert (said.returncode, said.stdout) == (2, "") and told in said.stderr, said.stderr
        assert "Traceback" not in said.stderr


@pytest.mark.parametrize("module", ["tree_sitter", "tree_sitter_bash"])
def test_a_missing_parser_is_named_with_its_cure(
    call: Command, monkeypatch: pytest.MonkeyPatch, module: str, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    said = call("import", LEAST)
    assert said.returncode == 2
    assert f"{module.replace('_', '-')}, which is not installed here" in said.stderr
    assert "\nFix: pip install" in said.stderr


def test_a_notebook_is_read_cell_by_cell(call: Command, tmp_path: Path) -> None:
    notebook = tmp_path / "train.ipynb"
    cells = [
        {"cell_type": "markdown", "source": ["# x"]},
        {"cell_type": "code", "source": ["import os\n", f"!{LEAST}"]},
    ]
    notebook.write_text(json.dumps({"cells": cells}))
    assert call("import", str(notebook)).stdout == FILE


def test_a_variable_of_the_machine_can_be_given(call: Command, tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text("lerobot-train --dataset.repo_id=${HF_USER}/b --policy.type=act\n")
    refused = call("import", str(script))
    assert refused.returncode == 2 and refused.stderr.splitlines()[1:] == [
        f"  {script}:1: --dataset.repo_id has ${{HF_USER}} in it, which is not set in the script: write its value",
        f"Fix: give what is not set in the script: pi0q import {script} --set HF_USER=…",
    ]
    said = call("import", str(script), "--set", "HF_USER=a")
    assert (said.returncode, said.stdout, said.stderr) == (0, FILE, "")
    wrong = call("import", str(script), "--set", "HF_USER")
    assert wrong.returncode == 2 and "--set takes NAME=VALUE" in wrong.stderr


def test_json_holds_job_notes_and_faults(call: Command) -> None:
    said = json.loads(call("import", LEAST, "--json").stdout)
    assert said["job"]["name"] == "b" and [note["line"] for note in said["notes"]] == [1] and said["faults"] == []
    wrong = call("import", f"{LEAST} --steps=0", "--json")
    assert wrong.returncode == 2 and json.loads(wrong.stdout)["job"] is None


def test_accelerates_file_is_read_beside_the_script(call: Command, tmp_path: Path) -> None:
    (tmp_path / "scripts" / "configs").mkdir(parents=True)
    script = tmp_path / "scripts" / "train.sh"
    script.write_text("accelerate launch --config_file configs/two.yaml lerobot-train " + LEAST.partition(" ")[2])
    missing = call("import", str(script), "--json")
    assert json.loads(missing.stdout)["job"].get("resources") is None
    assert any("configs/two.yaml" in note["text"] for note in json.loads(missing.stdout)["notes"])
    (tmp_path / "scripts" / "configs" / "two.yaml").write_text("num_processes: 2\nmixed_precision: bf16\n")
    made = json.loads(call("import", str(script), "--json").stdout)["job"]
    assert (made["resources"], made["launch"]) == ({"gpus": 2}, {"mixed_precision": "bf16"})
