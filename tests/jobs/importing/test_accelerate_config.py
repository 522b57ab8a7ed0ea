"""`accelerate launch --config_file`: the file beside the script is read like the options that it stands for."""

from __future__ import annotations

import pytest

from pi0q.jobs.importing.importer import Imported, import_text, import_words
from pi0q.jobs.spec import parse

REST = "--dataset.repo_id=lab/box --policy.type=act"
#: As `accelerate config` writes it for two GPUs of one machine.
TWO = """
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: MULTI_GPU
downcast_bf16: 'no'
enable_cpu_affinity: false
gpu_ids: all
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""


def imported(config: str | None, options: str = "") -> Imported:
    """A script whose accel.yaml says this; None: it is not there."""
    script = f"accelerate launch --config_file accel.yaml {options} lerobot-train {REST}\n"
    return import_text(script, name="train.sh", beside={"accel.yaml": config}.get)


def carried(made: Imported) -> tuple[int, str]:
    assert made.faults == ()
    spec = parse(made.text, filename="job.yaml")
    return spec.resources.gpus or 1, spec.mixed_precision


def told(made: Imported) -> str:
    return "\n".join(remark.text for remark in (*made.notes, *made.faults))


@pytest.mark.parametrize(
    ("config", "options", "gpus", "precision"),
    [
        (TWO, "", 2, "bf16"),
        (TWO, "--num_processes=4", 4, "bf16"),
        (TWO, "--mixed_precision=no", 2, ""),
        (TWO, "--num_processes 1 --mixed_precision fp16", 1, "fp16"),
        ("num_processes: 1\nmixed_precision: no\n", "", 1, ""),
        ("{num_processes: 3, distributed_type: NO, dynamo_config: {dynamo_backend: 'NO'}}", "", 3, ""),
    ],
)
def test_processes_and_precision_are_taken_over_and_options_win(
    config: str, options: str, gpus: int, precision: str
) -> None:
    made = imported(config, options)

    assert carried(made) == (gpus, precision)
    assert "read --config_file=accel.yaml" in told(made)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (TWO.replace("MULTI_GPU", "FSDP") + "fsdp_config: {fsdp_version: 2}", "distributed_type: FSDP changes"),
        ("num_processes: 2\nfsdp_config: {fsdp_version: 2}", "fsdp_config changes the training"),
        ("num_processes: 2\ndeepspeed_config: {gradient_accumulation_steps: 4}", "deepspeed_config changes"),
        ("num_processes: 2\ngradient_accumulation_steps: 4", "gradient_accumulation_steps changes"),
        ("num_processes: 2\ndynamo_config: {dynamo_backend: INDUCTOR}", "dynamo_config: INDUCTOR changes"),
        ("num_processes: 2\nnum_machines: 2", "one job runs on one box"),
        ("num_processes: 2\nuse_cpu: true", "write --policy.device=cpu"),
        ("num_processes: 2\nmixed_precision: fp8", "--mixed_precision=fp8 is not taken"),
        ("num_processes: many", "num_processes of accel.yaml must be a number of processes, not `many`"),
        ("mixed_precision: bf16", "accel.yaml says no num_processes"),
        ("[1, 2]", "holds no settings"),
        ("a: [", "is no YAML that can be read"),
        ("!!python/object/apply:os.system [touch PWNED]", "is no YAML that can be read"),
    ],
)
def test_what_changes_the_training_is_a_fault_that_names_the_file(config: str, says: str) -> None:
    made = imported(config)

    assert made.text == "" and says in told(made)
    assert all(fault.line == 1 for fault in made.faults)


def test_file_that_is_not_there_is_named_in_a_note() -> None:
    made = imported(None, "--mixed_precision=bf16")

    assert carried(made) == (1, "bf16")
    (note,) = [note.text for note in made.notes if "accel.yaml" in note.text]
    assert "was not read: took 1 GPU and mixed precision bf16" in note


def test_words_of_a_shell_read_the_file_too() -> None:
    words = ["accelerate", "launch", "--config_file=a.yaml", "lerobot-train", *REST.split()]

    assert carried(import_words(words, beside=lambda name: TWO if name == "a.yaml" else None)) == (2, "bf16")


def test_file_of_another_command_is_not_asked_for() -> None:
    asked = list[str]()
    script = f"accelerate launch --config_file other.yaml evaluate.py\nlerobot-train {REST}\n"

    import_text(script, beside=asked.append)

    assert asked == []
