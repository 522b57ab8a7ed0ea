"""`pi0q import`: what a person types and reads; the reading itself is in tests/jobs/test_from_command.py."""

from __future__ import annotations

from pathlib import Path

from ..conftest import Command

LEAST = "lerobot-train --dataset.repo_id=a/b --policy.type=act --output_dir=/x"
FILE = "name: b\ntrain:\n  dataset:\n    repo_id: a/b\n  policy:\n    type: act\n"


def test_the_file_is_printed_and_what_was_left_out_is_told_beside_it(call: Command) -> None:
    said = call("import", LEAST)
    assert (said.returncode, said.stdout) == (0, FILE)
    assert said.stderr.startswith("pi0q: left out --output_dir: it is pi0q's to set")
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
