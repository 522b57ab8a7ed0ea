"""A command line becomes a job file that means the same."""

from __future__ import annotations

import pytest

from pi0q.jobs import command
from pi0q.jobs.errors import UsageError
from pi0q.jobs.from_command import job_file
from pi0q.jobs.spec import parse
from tests import guide

LEAST = "lerobot-train --dataset.repo_id=a/b --policy.type=act"


def argv(text: str) -> set[str]:
    spec = parse(text, filename="job.yaml")
    return set(command.fresh(spec, lerobot="0.6.1", output_dir="/out", run_id="run").argv)


def test_the_script_of_the_guide_trains_the_same() -> None:
    made = job_file(guide.SCRIPT)
    assert guide.as_pi0q_runs_it("/out") <= argv(made.text)
    assert [note.partition(":")[0] for note in made.notes] == ["left out --output_dir"]
    assert made.text.startswith("name: grab_box_pi0_fmc3\ntrain:\n  dataset:\n    repo_id: puheliang/")


@pytest.mark.parametrize(
    "line",
    [
        f"{LEAST} --steps=5",
        f"{LEAST} --steps 5",
        f"{LEAST} --steps 5 2>&1",
        f"python -m lerobot.scripts.lerobot_train {LEAST[13:]} --steps=5",
        f"CUDA_VISIBLE_DEVICES=0 nohup python lerobot/scripts/train.py {LEAST[13:]} --steps=5 > log.txt 2>&1 &",
        f"#!/bin/bash\n# lerobot\nset -e\ncd x\n{LEAST} \\\n  --steps=5 2>&1 | tee log.txt\necho done",
    ],
)
def test_however_it_was_typed(line: str) -> None:
    made = job_file(line)
    assert dict(parse(made.text, filename="job.yaml").train) == {
        "dataset.repo_id": "a/b",
        "policy.type": "act",
        "steps": 5,
    }


def test_words_that_a_shell_has_split_already() -> None:
    made = job_file([*LEAST.split(), "--wandb.notes=two words", "--wandb.enable"])
    train = parse(made.text, filename="job.yaml").train
    assert train["wandb.notes"] == "two words" and train["wandb.enable"] is True


def test_values_keep_their_kind() -> None:
    more = "--policy.optimizer_lr=1e-5 --dataset.episodes='[0, 2]' --seed=null --wandb.notes=12 --wandb.project=yes"
    train = parse(job_file(f"{LEAST} {more}").text, filename="job.yaml").train
    assert (train["wandb.notes"], train["wandb.project"]) == ("12", "yes")
    assert (train["policy.optimizer_lr"], train["dataset.episodes"], train["seed"]) == (1e-05, [0, 2], None)


def test_all_faults_are_told_at_once() -> None:
    wrong = "--stepps=5 --env.type=pusht --batch_size=-1 --dataset.root=$DATA extra"
    with pytest.raises(UsageError) as refused:
        job_file(f"{LEAST} {wrong}")
    assert str(refused.value).splitlines() == [
        "The command has 4 faults; nothing was written.",
        "  `extra` is not a flag",
        "  --stepps is not a flag that pi0q passes to lerobot-train; did you mean steps?",
        "  --env.type is not taken: it would run a simulator's code on the box",
        "  --dataset.root has a variable of the shell in it ($DATA): write its value",
    ]


def test_a_value_out_of_bounds_is_told_by_its_flag() -> None:
    with pytest.raises(UsageError, match=r"1 fault; nothing was written\.\n  --batch_size must be"):
        job_file(f"{LEAST} --batch_size=-1")


@pytest.mark.parametrize(
    ("text", "told"), [("ls -l", "There is no lerobot-train in it"), (f"{LEAST} '", "can't be read")]
)
def test_what_is_no_such_command(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        job_file(text)
