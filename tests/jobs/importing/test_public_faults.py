"""Commands of public bug reports that were once imported wrongly: flags lost, misread, refused without reason."""

from __future__ import annotations

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.importer import Imported, decode, import_text
from pi0q.jobs.spec import Spec, parse

REST = "--dataset.repo_id=a/b --policy.type=act"
LEAST = f"lerobot-train {REST}"


def told(made: Imported) -> str:
    return "\n".join(remark.text for remark in (*made.notes, *made.faults))


def job(script: str) -> Spec:
    made = import_text(script)
    assert made.faults == ()
    return parse(made.text, filename="job.yaml")


BEFORE_THE_TRAINER = {
    "processes": (f"accelerate launch --num_processes=3 -m lerobot.scripts.lerobot_train {REST}", "3 processes"),
    "torchrun": (f"torchrun --nproc_per_node=8 -m lerobot.scripts.train {REST}", "8 processes"),
    "devices": (f"CUDA_VISIBLE_DEVICES=1,2 {LEAST}", "CUDA_VISIBLE_DEVICES"),
    "offline wandb": (f"export WANDB_MODE=offline\n{LEAST}", "WANDB_MODE"),
    "offline hub": (f"export HF_HUB_OFFLINE=1\n{LEAST}", "HF_HUB_OFFLINE"),
    "accelerate's file": (f"accelerate launch --config_file=a.yaml -m lerobot.scripts.lerobot_train {REST}", "a.yaml"),
}


@pytest.mark.parametrize("case", BEFORE_THE_TRAINER)
def test_what_stands_before_the_trainer_is_told(case: str) -> None:
    script, word = BEFORE_THE_TRAINER[case]
    assert word in told(import_text(script))


def test_mixed_precision_and_gpus_of_accelerate_are_taken_over() -> None:
    launch = "accelerate launch --multi_gpu --num_processes=2 --mixed_precision=bf16"
    made = job(f"{launch} $(which lerobot-train) {REST}")
    assert (made.resources.gpus, made.mixed_precision) == (2, "bf16")
    assert (made.train["dataset.repo_id"], made.train["policy.type"]) == ("a/b", "act")


def test_backquotes_around_which_are_the_trainer() -> None:
    assert job(f"python `which lerobot-train` {REST}") == job(LEAST)


@pytest.mark.parametrize(
    "before",
    [
        "mkdir -p outputs/train\n",
        "tmux new -s train\n",
        "cd /root/train && ",
        "HF_HOME=/data/train ",
        "which lerobot-train || exit 1\n",
        "echo Starting lerobot-train now\n",
    ],
)
def test_other_words_that_end_in_train_are_not_the_trainer(before: str) -> None:
    assert job(before + LEAST) == job(LEAST)


def test_a_quoted_value_over_several_lines_is_one_value() -> None:
    renamed = '--rename_map=\'{\n  "observation.images.base": "observation.images.base_0_rgb",\n  }\''
    made = job(f"lerobot-train \\\n {REST} \\\n --policy.pretrained_path=lerobot/pi0 \\\n {renamed} \\\n --steps=5")
    assert made.train["rename_map"] == {"observation.images.base": "observation.images.base_0_rgb"}
    assert made.train["steps"] == 5


CUT = {
    "forgotten backslash": (f"{LEAST}\n  --batch_size=2 \\\n  --steps=5\n", 2, "--batch_size=2"),
    "comment between": (f"lerobot-train \\\n {REST} \\\n # --steps=500 \\\n --batch_size=2\n", 4, "--batch_size=2"),
    "blank line between": ("lerobot-train \\\n --dataset.repo_id=a/b \\\n\n --policy.type=act\n", 4, "--policy.type"),
}


@pytest.mark.parametrize("case", CUT)
def test_flags_behind_the_end_of_the_command_are_faults_with_their_line(case: str) -> None:
    script, line, flag = CUT[case]
    assert (line, True) in [(fault.line, flag in fault.text) for fault in import_text(script).faults]


def test_a_second_training_is_a_note() -> None:
    made = import_text(f"{LEAST} --steps=5\nlerobot-train --dataset.repo_id=a/c --policy.type=act\n")
    assert parse(made.text, filename="job.yaml").train["steps"] == 5
    assert [note.line for note in made.notes if "another training" in note.text] == [2]


def test_notes_are_kept_beside_faults() -> None:
    made = import_text("CUDA_VISIBLE_DEVICES=1 lerobot-train --output_dir=x --dataset.repo_id=a/b --steps=none")
    assert any("output_dir" in note.text for note in made.notes)
    assert any("--steps" in fault.text for fault in made.faults)


def test_resume_names_the_way_to_go_on() -> None:
    with pytest.raises(UsageError, match="--adopt"):
        import_text("lerobot-train --config_path=o/checkpoints/last/pretrained_model/train_config.json --resume=true")


@pytest.mark.parametrize(
    "raw",
    [
        f"{LEAST} \\\r\n --steps=5\r\n".encode(),
        b"\xef\xbb\xbf" + f"{LEAST} --steps=5".encode(),
        f"!{LEAST} --steps=5".encode(),
        f"{LEAST}\u00a0--steps=5".encode(),
        f"{LEAST}\u3000--steps=5".encode(),
        f"{LEAST} --steps=5".encode("utf-16"),
        "# 训练\n".encode("gbk") + f"{LEAST} --steps=5".encode(),
    ],
    ids=["CRLF", "byte order mark", "notebook", "no-break space", "full-width space", "UTF-16", "GBK comment"],
)
def test_a_file_of_another_editor_gives_the_plain_files_job(raw: bytes) -> None:
    assert job(decode(raw, "train.sh")) == job(f"{LEAST} --steps=5")


def test_bytes_that_are_no_utf8_inside_the_command_are_refused() -> None:
    made = import_text(decode(f"{LEAST} --job_name=抓盒子".encode("gbk"), "train.sh"))
    assert made.text == ""
    assert [fault.text for fault in made.faults] == [
        "--job_name holds bytes that are no UTF-8 text: save the script as UTF-8"
    ]
    stray = import_text(decode(f"{LEAST} ".encode() + "抓盒子".encode("gbk"), "train.sh"))
    assert "no UTF-8" in told(stray)


def test_a_full_width_equals_sign_is_named() -> None:
    made = import_text("lerobot-train --dataset.repo_id＝a/b --policy.type=act")
    assert "`＝` is a full-width equals sign: write `=`" in told(made)


def test_a_relative_root_is_noted() -> None:
    made = import_text(f"{LEAST} --dataset.root=./data/x")
    assert "PI0Q_HOME" in told(made)


def test_pythons_none_is_nothing_where_the_flag_takes_nothing() -> None:
    assert job(f"{LEAST} --dataset.root=None --wandb.entity=None") == job(
        f"{LEAST} --dataset.root=null --wandb.entity=null"
    )
