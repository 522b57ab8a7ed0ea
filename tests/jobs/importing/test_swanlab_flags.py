"""`--swanlab.*` of LeRobot's forks in a job file."""

from __future__ import annotations

import pytest

from pi0q.jobs.importing.importer import Imported, import_text
from pi0q.jobs.spec import parse

COMMAND = "lerobot-train --policy.type=act --dataset.repo_id=a/b "


def imported(flags: str) -> Imported:
    return import_text(COMMAND + flags)


@pytest.mark.parametrize(
    ("flags", "to", "settings"),
    [
        ("--swanlab.enable=true", ("swanlab",), ("", "", "online")),
        ("--swanlab.enable --swanlab.project=p --swanlab.mode=cloud", ("swanlab",), ("p", "", "online")),
        (
            "--swanlab.enable=true --swanlab.workspace=w --swanlab.mode=local --wandb.enable=true",
            ("wandb", "swanlab"),
            ("", "w", "offline"),
        ),
        ("--swanlab.enable=false --swanlab.project=p", None, ("", "", "online")),
        ("--swanlab.enable=true --swanlab.mode=disabled", None, ("", "", "online")),
    ],
)
def test_flags_become_tracking(flags: str, to: tuple[str, ...] | None, settings: tuple[str, str, str]) -> None:
    made = imported(flags)
    found = parse(made.text, filename="x").tracking
    assert not made.faults and found.to == to
    assert (found.project, found.workspace, found.mode) == settings


def test_what_pi0q_sets_itself_is_left_out_with_a_note() -> None:
    made = imported("--swanlab.enable=true --swanlab.run_id=x --swanlab.log_dir=/l")
    assert "run_id" not in made.text and {
        "left out --swanlab.run_id: the job has one run for its whole life",
        "left out --swanlab.log_dir: the run lies in the job's directory on the box",
    } <= {note.text for note in made.notes}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--swanlab.mode=fast", "--swanlab.mode must be one of cloud, online, offline, local, not `fast`"),
        ("--swanlab.project=$1", "--swanlab.project is $1"),
        ("--swanlab.project='a b'", "swanlab.project must be of letters"),
    ],
)
def test_what_can_not_be_taken_over_is_a_fault(flags: str, said: str) -> None:
    made = imported(f"--swanlab.enable=true {flags}")
    assert any(said in fault.text for fault in made.faults)
