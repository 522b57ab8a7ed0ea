"""The sentences have the numbers of the case, and the cure is about this very file."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.diagnosis import judge, with_stacks
from pi0q.jobs.failures.evidence import Evidence, GpuState, Memory
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import OUTCOMES, Next, Reason

OOM = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.12 GiB is "
    "free. Including non-PyTorch memory, this process has 77.98 GiB memory in use."
)
PI0 = {"policy.type": "pi0", "batch_size": 32, "policy.dtype": "float32", "dataset.repo_id": "you/grab_box"}
TORCH = Evidence(exit_code=1, error=Raised.of("OutOfMemoryError", OOM), step=0, train=PI0)


def killed(**memory: int | bool | None) -> Evidence:
    return Evidence(exit_code=-signal.SIGKILL, step=7, memory=Memory(**memory), train={"num_workers": 4})  # type: ignore[arg-type]


def test_out_of_memory_at_the_first_step_names_what_to_change_in_the_file() -> None:
    found = judge(TORCH)
    assert found.reason is Reason.CUDA_OUT_OF_MEMORY
    assert found.detail == (
        "CUDA out of memory before its first step with batch_size 32: it wanted 2.00 GiB more, "
        "1.12 GiB of 79.11 GiB were free"
    )
    for change in (
        "policy.gradient_checkpointing: true",
        "policy.dtype: bfloat16 (is float32)",
        "batch_size: 16 (is 32)",
    ):
        assert change in found.fix


def test_what_is_set_already_is_not_advised() -> None:
    saved = {**PI0, "policy.dtype": "bfloat16", "policy.gradient_checkpointing": True, "batch_size": 1}
    cure = judge(replace(TORCH, train=saved)).fix
    assert "gradient_checkpointing" not in cure and "dtype" not in cure and "batch_size" not in cure
    assert "policy.train_expert_only: true" in cure
    assert "gradient_checkpointing" not in judge(replace(TORCH, train={"policy.type": "act", "batch_size": 8})).fix


def test_out_of_memory_after_5000_steps_says_that_little_is_lacking() -> None:
    found = judge(replace(TORCH, step=5000))
    assert "after step 5000" in found.detail and "It went well for 5000 steps" in found.fix
    assert OUTCOMES[found.reason].next is Next.FAIL


def test_memory_that_another_process_took_is_not_the_jobs_doing() -> None:
    found = judge(
        replace(TORCH, error=Raised.of("OutOfMemoryError", OOM + " Process 812 has 59.50 GiB memory in use."))
    )
    assert found.reason is Reason.GPU_TAKEN and "59.5 GiB" in found.detail
    assert OUTCOMES[found.reason].next is Next.REQUEUE


def test_a_memory_kill_is_known_by_the_counter_and_the_working_set() -> None:
    assert diagnose(killed(oom_kills=1, limit_mib=1024, used_mib=900)) is Reason.MEMORY_LIMIT
    assert diagnose(killed(oom_kills=0, limit_mib=1024, used_mib=1000)) is Reason.PLATFORM_KILLED
    assert diagnose(killed(oom_kills=0, limit_mib=1024, used_mib=300)) is Reason.TRAINER_KILLED
    assert diagnose(killed()) is Reason.TRAINER_KILLED
    loader = Evidence(
        exit_code=1,
        error=Raised.of("RuntimeError", "DataLoader worker (pid 9) is killed by signal: Killed."),
    )
    assert diagnose(loader) is Reason.MEMORY_LIMIT
    innocent = replace(loader, memory=Memory(oom_kills=0, limit_mib=1024, used_mib=300))
    assert diagnose(innocent) is Reason.TRAINER_KILLED
    # A kill in the same container that this trainer survived says nothing of it.
    assert (
        diagnose(Evidence(exit_code=1, error=Raised.of("KeyError"), memory=Memory(oom_kills=2)))
        is Reason.TRAINER_FAILED
    )


def test_a_memory_kill_says_how_much_was_used_of_how_much() -> None:
    found = judge(killed(oom_kills=1, limit_mib=16384, used_mib=15974, peak_mib=16384, container=True))
    assert "for the container's memory limit of 16.0 GiB after step 7" in found.detail
    assert "num_workers: 2 (is 4" in found.fix
    innocent = judge(killed(oom_kills=0, limit_mib=122880, used_mib=12288))
    assert "memory was not the cause, 12.0 of 120.0 GiB in use" in innocent.detail


@pytest.mark.parametrize("code", [-signal.SIGKILL, 137])
def test_a_shells_way_to_tell_of_a_signal_is_understood(code: int) -> None:
    assert diagnose(Evidence(exit_code=code)) is Reason.TRAINER_KILLED


def test_a_signal_that_has_no_name_is_no_crash_of_the_words() -> None:
    message = "DataLoader worker (pid 7) is killed by signal: Segmentation fault."
    found = judge(
        Evidence(
            exit_code=-35,
            error=Raised.of("RuntimeError", message),
        )
    )
    assert found.reason is Reason.TRAINER_CRASHED and "(a crash)" in found.detail


def test_a_bus_error_is_shared_memory_only_where_that_is_small() -> None:
    assert diagnose(Evidence(exit_code=-signal.SIGBUS, shm_mib=64, shm_free_mib=1)) is Reason.SHM_FULL
    assert diagnose(Evidence(exit_code=-signal.SIGBUS, shm_mib=65536, shm_free_mib=8)) is Reason.SHM_FULL
    assert diagnose(Evidence(exit_code=-signal.SIGBUS, shm_mib=65536, shm_free_mib=65000)) is Reason.TRAINER_CRASHED


@pytest.mark.parametrize(
    "gpu",
    [GpuState(uuid="GPU-1", xids=(79,)), GpuState(uuid="GPU-1", ecc_errors=1), GpuState(uuid="GPU-1", lost="lost")],
)
def test_a_broken_gpu_goes_before_all_that_follows_from_it(gpu: GpuState) -> None:
    error = Evidence(
        exit_code=1, error=Raised.of("AcceleratorError", "CUDA error: unspecified launch failure"), gpus=(gpu,)
    )
    assert diagnose(error) is Reason.GPU_LOST
    assert diagnose(Evidence(exit_code=-9, heard="hung", gpus=(gpu,))) is Reason.GPU_LOST
    assert "GPU-1" in judge(error).detail
    assert diagnose(Evidence(exit_code=0, gpus=(gpu,))) is Reason.FINISHED


def test_an_xid_of_the_program_is_no_broken_gpu() -> None:
    error = Evidence(
        exit_code=1,
        error=Raised.of("AcceleratorError", "CUDA error: an illegal memory access was encountered"),
    )
    assert diagnose(replace(error, gpus=(GpuState(uuid="GPU-1", xids=(31,)),))) is Reason.CUDA_ERROR


def test_what_autotune_passes_over_is_no_failure() -> None:
    noise = (
        "AUTOTUNE mm(1024x2048, 2048x2048)",
        "OutOfResources: out of resource: shared memory, Required: 180224, Hardware limit: 101376.",
        "No valid triton configs. OutOfResources: out of resource: shared memory",
    )
    assert diagnose(Evidence(exit_code=1, log=("KeyError: 'action'", *noise))) is Reason.TRAINER_FAILED
    assert "KeyError: 'action'" in judge(Evidence(exit_code=1, log=("KeyError: 'action'", *noise))).detail
    assert diagnose(Evidence(exit_code=0, log=noise)) is Reason.FINISHED
    ended = Evidence(
        exit_code=1,
        error=Raised.of("OutOfResources", "out of resource: shared memory, Required: 180224"),
    )
    assert diagnose(ended) is Reason.COMPILE_FAILED


def test_an_unknown_end_gives_the_last_words_and_where_the_log_is() -> None:
    found = judge(Evidence(exit_code=3, log=("Reading model.safetensors", "the flux capacitor is empty", "")))
    assert found.reason is Reason.TRAINER_FAILED
    assert found.detail == "the trainer ended with exit code 3 and said last: the flux capacitor is empty"
    assert "pi0q logs" in found.fix
    assert judge(Evidence(exit_code=3)).detail == "the trainer ended with exit code 3 without any output"


def test_an_exception_without_words_is_told_by_the_one_behind_it() -> None:
    bare = Evidence(
        exit_code=1,
        error=Raised.of("DatasetGenerationError", "An error occurred while generating the dataset"),
        causes=(Raised.of("ArrowInvalid", "Parquet magic bytes not found in footer"),),
    )
    assert "Parquet magic bytes" in judge(bare).detail


def test_a_refusal_of_the_hub_names_the_repository_and_its_page() -> None:
    text = "401 Client Error. (Request ID: x)\n\nRepository Not Found for url: https://huggingface.co/api/datasets/you/grab/refs."
    found = judge(
        Evidence(
            exit_code=1,
            error=Raised.of("RepositoryNotFoundError", text),
        )
    )
    assert found.reason is Reason.NOT_ON_HUB and "no you/grab that this box may see" in found.detail
    assert "https://huggingface.co/datasets/you/grab there?" in found.fix
    text = (
        "403 Client Error.\nCannot access gated repo for url https://huggingface.co/google/x/resolve/main/config.json."
    )
    gated = judge(
        Evidence(
            exit_code=1,
            error=Raised.of("GatedRepoError", text),
        )
    )
    assert gated.reason is Reason.NEEDS_ACCESS and "Accept its terms on https://huggingface.co/google/x " in gated.fix


def test_what_a_data_loader_met_is_unwrapped() -> None:
    text = (
        "Caught OSError in DataLoader worker process 2.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 3, in f\nOSError: [Errno 28] No space left on device'
    )
    found = judge(
        Evidence(
            exit_code=1,
            error=Raised.of("OSError", text),
        )
    )
    assert found.reason is Reason.DISK_FULL and found.detail == "OSError: [Errno 28] No space left on device"


def test_the_same_failure_has_the_same_name_and_another_step_another() -> None:
    first = Evidence(exit_code=1, error=Raised.of("KeyError", "'frame 17'"), step=5017)
    assert judge(first).same == judge(replace(first, error=Raised.of("KeyError", "'frame 18'"))).same
    assert judge(first).same != judge(replace(first, step=5018)).same
    assert judge(killed()).same == "", "a kill names no cause"


def test_a_hang_says_how_long_it_was_silent_where_it_stood_and_where_the_stacks_are() -> None:
    found = judge(Evidence(exit_code=-9, heard="hung", silent_seconds=612.4, step=41))
    told = with_stacks(found, path="/data/runs/x/stacks-2.txt", where="_try_get_data (dataloader.py:1288)")
    assert told.detail == "no step for 612 s after step 41; it stood in _try_get_data (dataloader.py:1288)"
    assert "/data/runs/x/stacks-2.txt" in told.fix
    assert told.to_json()["stacks"] == "/data/runs/x/stacks-2.txt"
