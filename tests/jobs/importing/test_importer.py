"""A command line becomes a job file that means the same, or says with its line why it does not."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs import command
from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.importer import Imported, decode, import_text, import_words
from pi0q.jobs.spec import Spec, parse
from tests import guide

LEAST = "lerobot-train --dataset.repo_id=a/b --policy.type=act"
REST = "--dataset.repo_id=a/b --policy.type=act"


def spec_of(made: Imported) -> Spec:
    assert made.faults == ()
    return parse(made.text, filename="job.yaml")


def faults(script: str) -> list[tuple[int, str]]:
    made = import_text(script)
    assert made.text == ""
    return [(fault.line, fault.text) for fault in made.faults]


def notes(script: str) -> list[tuple[int, str]]:
    return [(note.line, note.text) for note in import_text(script).notes]


def test_the_script_of_the_guide_trains_the_same() -> None:
    made = import_text(guide.SCRIPT)
    built = command.fresh(spec_of(made), lerobot="0.6.1", output_dir="/out", run_id="run")
    assert guide.as_pi0q_runs_it("/out") <= set(built.argv)
    assert made.text.startswith("name: grab_box_pi0_fmc3\ntrain:\n  dataset:\n    repo_id: puheliang/")


#: Each trains ACT on a/b for 5 steps on one GPU.
SAME = {
    "plain": f"{LEAST} --steps=5",
    "spaced": f"{LEAST} --steps 5",
    "redirected": f"{LEAST} --steps 5 2>&1",
    "module": f"python -m lerobot.scripts.lerobot_train {REST} --steps=5",
    "old module": f"python3.12 -u -m lerobot.scripts.train {REST} --steps=5",
    "old script": f"CUDA_VISIBLE_DEVICES=0 nohup python lerobot/scripts/train.py {REST} --steps=5 > log.txt 2>&1 &",
    "script by name": f"cd lerobot/scripts; python train.py {REST} --steps=5",
    "piped": f"#!/bin/bash\n# lerobot\nset -e\ncd x\n{LEAST} \\\n  --steps=5 2>&1 | tee log.txt\necho done",
    "absolute": f"/root/miniconda3/envs/lerobot/bin/lerobot-train {REST} --steps=5",
    "which in backticks": f"python `which lerobot-train` {REST} --steps=5",
    "command -v": f'T="$(command -v lerobot-train)"; "$T" {REST} --steps=5',
    "exec": f"exec {LEAST} --steps=5",
    "environment": f"env HF_HOME=/data lerobot-train {REST} --steps=5",
    "uv": f"uv run --extra pi lerobot-train {REST} --steps=5",
    "conda": f"conda run -n lerobot --no-capture-output lerobot-train {REST} --steps=5",
    "compose": f"docker compose run --rm -e HF_HOME=/hf trainer lerobot-train {REST} --steps=5",
    "docker": f"docker run --gpus all -v $PWD:/w img:latest python -m lerobot.scripts.lerobot_train {REST} --steps=5",
    "tmux": f"tmux new-session -d -s train 'cd /root && lerobot-train {REST} --steps=5'",
    "tmux keys": f'S=5\ntmux send-keys -t train "lerobot-train {REST} --steps=$S" C-m',
    "bash -c": f"export S=5\nbash -c 'lerobot-train {REST} --steps=$S'",
    "here-document": f"ssh gpu bash <<'EOF'\nS=5\nlerobot-train {REST} --steps=$S\nEOF",
    "function": 'train() {\n  lerobot-train --dataset.repo_id="$1" --policy.type=act "${@:2}"\n}\ntrain a/b --steps=5',
    "main": f'main() {{ {LEAST} --steps="${{1:-5}}"; }}\nmain "$@"',
    "usage": f'if [ $# -lt 0 ] || [ -n "$1" ]; then echo usage; exit 1; fi\n{LEAST} --steps=5',
    "usage that ends": f'if [ -z "$1" ]; then echo "usage: $0 X"; exit 1; fi\n{LEAST} --steps=5',
    "arguments": f'S=5; while [[ $# -gt 0 ]]; do case "$1" in --s) S="$2"; shift 2;; esac; done\n{LEAST} --steps=$S',
    "retry": f"until lerobot-train {REST} --steps=5; do sleep 10; done",
    "resume by a variable": (
        'R=""\nif [ -d out/checkpoints/last ]; then R="--resume=true --config_path=out/last/train_config.json"; fi\n'
        f"{LEAST} --steps=5 $R"
    ),
    "resume in else": (
        f"if [ ! -d out ]; then\n  {LEAST} --steps=5\nelse\n  lerobot-train --resume=true --config_path=out/c.json\nfi"
    ),
    "choice": f'M=${{MODE:-act}}\ncase "$M" in\n act) S=5 ;;\n *) S=9 ;;\nesac\n{LEAST} --steps=$S',
    "options by condition": f'L=0; A=()\nif [ "$L" = 1 ]; then A+=(--peft.r=4); fi\n{LEAST} --steps=5 "${{A[@]}}"',
    "BOM and CRLF": f"\ufeff#!/bin/bash\r\nlerobot-train \\\r\n  {REST} \\\r\n  --steps=5\r\n",
    "no-break spaces": f"lerobot-train\u00a0{REST}\u00a0\\\n\u3000--steps=5",
    "notebook": f"import os\n!pip install x\n%env HF_HOME=/hf\n!cd /x && lerobot-train {REST} \\\n  --steps=5\n",
    "Windows": f"lerobot-train {REST} ^\r\n  --steps=5\r\n",
    "PowerShell": f"lerobot-train {REST} `\n  --steps=5\n",
    "torchrun of one": f"torchrun --standalone --nproc-per-node=1 $(which lerobot-train) {REST} --steps=5",
    "given twice": f"{LEAST} --steps=9 --steps=5",
    "heredoc of another file": f"cat > x.txt <<EOF\nlerobot-train --dataset.repo_id=c/d\nEOF\n{LEAST} --steps=5",
    "sourced": f"source ~/venv/bin/activate\n{LEAST} --steps=${{STEPS:-5}}",
    "trainer by a condition": (
        "if command -v lerobot-train >/dev/null; then\n  T=(lerobot-train)\nelse\n"
        f'  T=(python -m lerobot.scripts.lerobot_train)\nfi\n"${{T[@]}}" {REST} --steps=5 |& tee log'
    ),
    "sbatch": f"sbatch --gpus=1 --wrap='lerobot-train {REST} --steps=5'",
    "behind a redirection": f"{LEAST} > log.txt --steps=5 2>&1",
    "workers of the machine": f"{LEAST} --steps=5 --num_workers=$(nproc)",
    "local device": f"{LEAST} --steps=5 --policy.device=cuda:1",
}


@pytest.mark.parametrize("form", SAME)
def test_however_it_is_written_it_trains_the_same(form: str) -> None:
    spec = spec_of(import_text(SAME[form]))
    assert dict(spec.train) == {"dataset.repo_id": "a/b", "policy.type": "act", "steps": 5}
    assert spec.resources.gpus is None


def test_words_that_a_shell_has_split_already() -> None:
    made = import_words(["WANDB_MODE=offline", *LEAST.split(), "--wandb.notes=two words", "--wandb.enable"])
    train = spec_of(made).train
    assert train["wandb.notes"] == "two words" and train["wandb.enable"] is True and train["wandb.mode"] == "offline"


def test_values_keep_their_kind() -> None:
    more = "--policy.optimizer_lr=1e-5 --dataset.episodes='[0, 2]' --seed=null --wandb.notes=12 --wandb.project=yes"
    train = spec_of(import_text(f"{LEAST} {more}")).train
    assert (train["wandb.notes"], train["wandb.project"]) == ("12", "yes")
    assert (train["policy.optimizer_lr"], train["dataset.episodes"], train["seed"]) == (1e-05, [0, 2], None)


@pytest.mark.parametrize(
    ("launcher", "gpus", "precision"),
    [
        ("accelerate launch --num_processes=4 $(which lerobot-train)", 4, ""),
        ("accelerate launch --num-processes 2 --mixed-precision fp16 -m lerobot.scripts.lerobot_train", 2, "fp16"),
        ("CUDA_VISIBLE_DEVICES=0,1,3 accelerate launch --multi_gpu lerobot-train", 3, ""),
        ("N=3; accelerate launch --num_processes=$N --mixed_precision=no lerobot-train", 3, ""),
        ("ACCELERATE_MIXED_PRECISION=bf16 lerobot-train", None, "bf16"),
        ("torchrun --nproc_per_node 2 --nnodes=1 lerobot_train.py", 2, ""),
        ("CUDA_VISIBLE_DEVICES=4,5 torchrun --nproc_per_node=gpu -m lerobot.scripts.lerobot_train", 2, ""),
        ("python -m torch.distributed.run --nproc-per-node=2 -m lerobot.scripts.lerobot_train", 2, ""),
        ("python -m accelerate.commands.launch --num_processes=2 src/lerobot/scripts/lerobot_train.py", 2, ""),
        ("accelerate-launch --num_processes=2 lerobot_train.py", 2, ""),
        ("uv run accelerate launch --num_processes=2 lerobot-train", 2, ""),
        ("docker compose run --rm t accelerate launch --num_processes=2 lerobot-train", 2, ""),
    ],
)
def test_processes_become_gpus(launcher: str, gpus: int | None, precision: str) -> None:
    spec = spec_of(import_text(f"{launcher} {REST} --batch_size=32"))
    assert (spec.resources.gpus, spec.mixed_precision, spec.train["batch_size"]) == (gpus, precision, 32)


@pytest.mark.parametrize(
    ("script", "line", "text"),
    [
        (f"{LEAST} \\\n  --batch_size=-1", 2, "--batch_size must be a whole number from 1"),
        (f"{LEAST} \\\n --dataset.root=$DATA", 2, "--dataset.root is $DATA, which is not set in the script"),
        (f"{LEAST} \\\n --dataset.root=/x/$DATA", 2, "has $DATA in it, which is not set in the script"),
        (f"{LEAST} --steps=$(cat steps)", 1, "--steps is $(cat steps), which only a run of the script tells"),
        (f"for S in 1 2; do\n{LEAST} --seed=$S\ndone", 2, "which the loop on line 1 sets to 1, 2: write its value"),
        (f"f() {{\n{LEAST} --steps=$1\n}}", 2, "--steps is $1, an argument of the script"),
        (f"{LEAST} \\\n  extra", 2, "`extra` is not a flag"),
        (f"{LEAST} -v", 1, "its flags begin with --"),
        (f"{LEAST} \u2013steps=5", 1, "begins with a dash that is no `-`"),
        (f"{LEAST} --batch_size=4 \\ \n  --steps=5", 2, "a blank follows the `\\` at the end of line 1"),
        (f"{LEAST} \\\n\n  --steps=5", 3, "line 2 is blank, which ends it"),
        (f"{LEAST} \\\n --seed=1 # why \\\n  --steps=5", 3, "the comment on line 2 takes the `\\` with it"),
        (f'A=(--steps=5)\n{LEAST}\n  "${{A[@]}}"', 3, "line 2 does not end with `\\`"),
        (f"{LEAST} --steps=${{1:?usage}}", 1, "--steps is ${1:?usage}, an argument of the script"),
        (f'main() {{ {LEAST} --steps=$1; }}\nmain "$@"', 1, "--steps is $1, an argument of the script"),
        (f"{LEAST} ^\n --wandb.project=%NAME%", 2, "a variable of Windows"),
        ("lerobot-train --dataset.repo_id=<USER>/x --policy.type=act", 1, "--dataset.repo_id names no owner"),
        (f"{LEAST} --config_path=c.yaml", 1, "holds settings that are not in this file"),
        (f"accelerate launch lerobot-train {REST}", 1, "one for each GPU that it sees"),
        (f"accelerate launch --config_file $C lerobot-train {REST}", 1, "--config_file is $C, which is not set"),
        (f"accelerate launch --num_processes=2 --use_fsdp lerobot-train {REST}", 1, "--use_fsdp changes the training"),
        (f"torchrun --nnodes=2 --nproc_per_node=8 lerobot-train {REST}", 1, "one job runs on one box"),
        (f"torchrun --nproc_per_node=gpu lerobot-train {REST}", 1, "as many as the machine has"),
        (f"accelerate launch --num_processes=$N lerobot-train {REST}", 1, "--num_processes is $N, which is not set"),
        (f"deepspeed lerobot_train.py {REST}", 1, "are not taken"),
        (f"export WANDB_MODE=$M\n{LEAST}", 1, "--wandb.mode is $M, which is not set"),
        (f"CUDA_VISIBLE_DEVICES= {LEAST}", 1, "hides every GPU"),
        (f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 {LEAST}", 1, "changes the training"),
        (f"source env.sh\n{LEAST} --steps=${{STEPS:-5}}", 2, "env.sh, which line 1 reads in, was not read"),
        (f"!{LEAST} --wandb.project={{name}}", 1, "{name} is a value of the notebook's Python"),
        (f"{LEAST} '", 1, "can't be read as a shell reads it"),
        (f'lerobot-train --rename_map={{"a":1,"b":2}} {REST}', 1, "put quotes around it"),
    ],
)
def test_what_can_not_be_carried_over_is_a_fault_on_its_line(script: str, line: int, text: str) -> None:
    found = faults(script)
    assert [at for at, told in found if text in told] == [line], found


def test_all_faults_are_told_at_once_with_their_notes() -> None:
    made = import_text(f"{LEAST} --output_dir=/x \\\n --stepps=5 \\\n --batch_size=-1 \\\n --dataset.root=$DATA extra")
    assert [(fault.line, fault.text.split()[0]) for fault in made.faults] == [
        (2, "--stepps"),
        (3, "--batch_size"),
        (4, "--dataset.root"),
        (4, "`extra`"),
    ]
    assert [note.text.split(":")[0] for note in made.notes] == ["left out --output_dir"]


@pytest.mark.parametrize(
    ("script", "line", "text"),
    [
        (f"export WANDB_MODE=offline\n{LEAST}", 1, "took WANDB_MODE over as wandb.mode: offline"),
        (f"export A=1\nexport HF_ENDPOINT=x\n{LEAST}", 2, "left out HF_ENDPOINT"),
        (f"export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz\n{LEAST}", 1, "left out HF_TOKEN: tokens live on the box"),
        (f"{LEAST}\nlerobot-train --dataset.repo_id=c/d --policy.type=pi0", 2, "another training; take it by --line 2"),
        (f"while true; do\n{LEAST}\ndone", 2, "took the command here, in the loop on line 1"),
        (f"{LEAST} --job.target=a10g --eval_freq=5", 1, "left out --job.target"),
        (f"source conf.sh\n{LEAST}", 1, "did not read conf.sh"),
        (f"timeout 12h {LEAST}", 1, "left out timeout"),
        (f"{LEAST} --job_name=act_$(date +%F)", 1, "left out --job_name: it holds $(date +%F)"),
        (f"{LEAST} --save_checkpoint_to_hub=true", 1, "copies verified checkpoints to the Hub"),
        (f"{LEAST} --save_checkpoint=false", 1, "left out --save_checkpoint"),
        (f"{LEAST} --dataset.root=data/x", 1, "is relative: on a box it is looked for below its PI0Q_HOME"),
    ],
)
def test_what_does_not_change_the_training_is_a_note(script: str, line: int, text: str) -> None:
    assert [at for at, told in notes(script) if text in told] == [line]


def test_a_flag_goes_before_the_environment() -> None:
    made = import_text(f"WANDB_MODE=offline {LEAST} --wandb.mode=online")
    assert spec_of(made).train["wandb.mode"] == "online"


def test_of_two_trainings_one_is_picked_by_its_line() -> None:
    script = f"{LEAST}\nlerobot-train --dataset.repo_id=c/d --policy.type=pi0"
    assert spec_of(import_text(script)).name == "b"
    assert spec_of(import_text(script, line=2)).name == "d"
    with pytest.raises(UsageError, match=r"No lerobot-train begins on line 5; .* on line 1, 2"):
        import_text(script, line=5)


def test_a_branch_that_the_script_does_not_take_can_be_picked() -> None:
    pi0 = "lerobot-train --dataset.repo_id=c/d --policy.type=pi0"
    script = f"M=act\nif [ $M = pi0 ]; then\n  {pi0}\nelse\n  {LEAST}\nfi"
    made = import_text(script)
    assert spec_of(made).name == "b"
    assert [note.line for note in made.notes if "take it by --line 3" in note.text] == [3]
    assert spec_of(import_text(script, line=3)).name == "d"
    alone = import_text(f"D=0\nif [ $D = 1 ]; then\n  {LEAST}\nfi")
    assert spec_of(alone) and "does not take" in alone.notes[0].text


def test_no_value_of_a_token_is_told() -> None:
    secret = "hf_" + "a1" * 15
    made = import_text(f"HF_TOKEN={secret} {LEAST} --wandb.notes={secret} {secret}")
    assert made.faults and secret not in f"{made}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ls -l", "There is no lerobot-train in the command"),
        ("# lerobot-train --x", "There is no lerobot-train in the command"),
        (f"echo '\n{LEAST}", "Line 1 of the command can't be read as a shell reads it"),
        ("echo lerobot-train", "Line 1 of the command names lerobot-train, but starts it in no way"),
        ("lerobot-train --resume=true --config_path=x", "continues a training (--resume), and there is no other"),
    ],
)
def test_what_is_no_training_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        import_text(text)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "told"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\x7fELF\0\0", "is not text"), (b"x" * 9_000_000, "is over 8 MiB")],
)
def test_what_is_no_text_is_refused_by_name(raw: bytes, told: str) -> None:
    with pytest.raises(UsageError, match=f"train.sh {told}"):
        decode(raw, "train.sh")


def test_a_script_out_of_bounds_is_refused_and_a_notebook_with_pictures_read() -> None:
    with pytest.raises(UsageError, match="the command is over 64 KiB"):
        import_text(f"{LEAST} # {'x' * 140_000}")
    cell = {"cell_type": "code", "source": [f"!{LEAST}"], "outputs": [{"data": {"image/png": "x" * 140_000}}]}
    assert spec_of(import_text(json.dumps({"cells": [cell]}))).name == "b"


def test_text_of_windows_is_decoded() -> None:
    assert decode(LEAST.encode("utf-16"), "x") == LEAST
    assert decode(b"\xef\xbb\xbf" + LEAST.encode(), "x") == LEAST
