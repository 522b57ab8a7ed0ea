"""Exceptions by their type, package, numbers and frames: a word alone drains no box and ends no job for good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi0q.jobs.failures.classify import diagnose
from pi0q.jobs.failures.diagnosis import judge
from pi0q.jobs.failures.evidence import Evidence, GpuState, Memory
from pi0q.jobs.failures.gpu_memory import others_gib
from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.failures.signs import is_outage
from pi0q.jobs.outcome import OUTCOMES, Next, Reason


def ended(kind: str, text: str = "", *causes: Raised, step: int = 1, **facts: object) -> Evidence:
    error = replace(Raised.of(kind, text), **facts)  # type: ignore[arg-type]
    return Evidence(exit_code=1, error=error, causes=causes, step=step)


# -- whose memory filled the GPU ------------------------------------------------------------------

CAPACITY = "CUDA out of memory. Tried to allocate 108.00 MiB. GPU 0 has a total capacity of 23.64 GiB of which 65.12 "\
           "MiB is free."  # fmt: skip
HELD = (
    " Of the allocated memory 22.96 GiB is allocated by PyTorch, and 168.02 MiB is reserved by PyTorch but unallocated."
)


@pytest.mark.parametrize(
    ("processes", "held", "reason"),
    [
        # In a container whose driver shows the host's process numbers torch does not know its own.
        ("Process 2670 has 23.55 GiB memory in use.", HELD, Reason.CUDA_OUT_OF_MEMORY),
        ("Process 2670 has 23.55 GiB memory in use. Process 31 has 458.00 MiB memory in use.", HELD,
         Reason.CUDA_OUT_OF_MEMORY),
        ("Process 31 has 458.00 MiB memory in use. Process 2670 has 23.13 GiB memory in use.", HELD,
         Reason.CUDA_OUT_OF_MEMORY),
        ("Process 31 has 9.00 GiB memory in use. Process 2670 has 23.55 GiB memory in use.", HELD, Reason.GPU_TAKEN),
        # Two that might be the run: the larger one is another's.
        ("Process 1 has 23.50 GiB memory in use. Process 2 has 24.50 GiB memory in use.", HELD, Reason.GPU_TAKEN),
        # None holds what the run holds: none is the run.
        ("Process 31 has 60.00 GiB memory in use.", HELD, Reason.GPU_TAKEN),
        ("Including non-PyTorch memory, this process has 16.63 GiB memory in use. Process 19239 has 14.26 GiB memory "
         "in use.", " Of the allocated memory 14.20 GiB is allocated by PyTorch.", Reason.GPU_TAKEN),
        ("Including non-PyTorch memory, this process has 23.40 GiB memory in use. Process 8 has 120.00 MiB memory in "
         "use.", HELD, Reason.CUDA_OUT_OF_MEMORY),
        # Data loaders and other ranks of the same run on this GPU.
        (" ".join(f"Process {n} has 458.00 MiB memory in use." for n in range(7)) + " Process 9 has 23.2 GiB memory in "
         "use.", HELD, Reason.CUDA_OUT_OF_MEMORY),
        ("", "", Reason.CUDA_OUT_OF_MEMORY),
    ],
)  # fmt: skip
def test_out_of_memory_is_the_runs_own_unless_others_hold_much(processes: str, held: str, reason: Reason) -> None:
    assert diagnose(ended("OutOfMemoryError", f"{CAPACITY} {processes}{held}", module="torch")) is reason


def test_out_of_memory_in_a_container_names_what_to_change() -> None:
    text = CAPACITY + " Process 2670 has 23.55 GiB memory in use." + HELD
    found = judge(replace(ended("OutOfMemoryError", text), train={"batch_size": 8}))
    assert "batch_size: 4 (is 8)" in found.fix and OUTCOMES[found.reason].next is Next.FAIL


def test_sizes_in_all_units_are_added_up() -> None:
    text = "this process has 1.00 GiB memory in use. Process 1 has 512.00 MiB memory in use. Process 2 has 1.00 GiB " \
           "memory in use. Process 3 has 1024 KiB memory in use."  # fmt: skip
    assert others_gib(text) == pytest.approx(1.5 + 1 / 1024)


# -- a broken card: the driver's counters alone -----------------------------------------------------

WORDS_OF_HARDWARE = [
    ("RuntimeError", "Error building extension 'fused_adam': nvlink error   : Undefined reference to kernel"),
    ("RuntimeError", "NVLink topology could not be read"),
    ("RuntimeError", "CUDA error: uncorrectable ECC error encountered"),
    ("AcceleratorError", "CUDA error: uncorrectable NVLink error detected during the execution"),
    ("RuntimeError", "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost"),
    ("NVMLError_GpuIsLost", "GPU is lost"),
    ("RuntimeError", "GPU 0 has fallen off the bus"),
    ("ValueError", "hardware stack error"),
]


@pytest.mark.parametrize(("kind", "text"), WORDS_OF_HARDWARE)
def test_a_word_about_hardware_drains_no_box(kind: str, text: str) -> None:
    assert diagnose(ended(kind, text)) is not Reason.GPU_LOST
    assert diagnose(Evidence(exit_code=1, log=(f"{kind}: {text}",))) is not Reason.GPU_LOST
    assert (
        diagnose(Evidence(exit_code=-6, log=(text, "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen")))
        is not Reason.GPU_LOST
    )


@pytest.mark.parametrize(
    "gpu", [GpuState(uuid="G", xids=(74,)), GpuState(uuid="G", ecc_errors=2), GpuState(uuid="G", lost="x")]
)
def test_the_drivers_own_counters_do(gpu: GpuState) -> None:
    for kind, text in WORDS_OF_HARDWARE:
        assert diagnose(replace(ended(kind, text), gpus=(gpu,))) is Reason.GPU_LOST


def test_words_of_a_broken_card_go_to_another_box_first_and_say_how_to_look() -> None:
    found = judge(ended("AcceleratorError", "CUDA error: uncorrectable ECC error encountered"))
    assert found.reason is Reason.CUDA_ERROR and OUTCOMES[found.reason].elsewhere
    assert "nvidia-smi -q -d ECC" in found.fix and "pi0q drain BOX" in found.fix


# -- what the trainer's environment lacks -----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "command"),
    [
        ("ValueError", "Couldn't instantiate the backend tokenizer from one of: \n(1) a `tokenizers` library "
         "serialization file, \n(2) a slow tokenizer instance to convert or \n(3) an equivalent slow tokenizer class "
         "to instantiate and convert. \nYou need to have sentencepiece or tiktoken installed to convert a slow "
         "tokenizer to a fast one.", "pip install sentencepiece"),
        ("ImportError", "T5Converter requires the protobuf library but it was not found in your environment.",
         "pip install protobuf"),
        ("ImportError", "This modeling file requires the following packages that were not found in your environment: "
         "flash_attn. Run `pip install flash_attn`", "pip install flash-attn"),
        ("ImportError", "Using `low_cpu_mem_usage=True` or a `device_map` requires Accelerate: `pip install "
         "'accelerate>=0.26.0'`", "pip install accelerate"),
        ("ModuleNotFoundError", "No module named 'cv2'", "pip install opencv-python-headless"),
        ("ModuleNotFoundError", "No module named 'qwen_vl_utils'", "pip install qwen-vl-utils"),
        ("RuntimeError", "Failed to find C compiler. Please specify via CC environment variable or set "
         "triton.knobs.build.impl.", "apt-get install -y gcc"),
        ("InductorError", "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
         "apt-get install -y gcc"),
        ("InductorError", "CalledProcessError: Command '['/usr/bin/gcc', '/tmp/x/main.c', '-O3']' returned non-zero "
         "exit status 1.", "apt-get install -y gcc"),
        ("CalledProcessError", "Command '['/usr/bin/x86_64-linux-gnu-gcc', '/tmp/main.c']' returned non-zero exit "
         "status 1.", "apt-get install -y gcc"),
        ("BackendCompilerFailed", "backend='inductor' raised:\nCppCompileError: C++ compile error\n\nfatal error: "
         "Python.h: No such file or directory", "python3-dev"),
        ("InductorError", "AssertionError: libcuda.so cannot found!\n", "ldconfig"),
        ("RuntimeError", "Error building extension 'fused_adam': nvlink error   : Undefined reference", "nvcc"),
        ("OSError", "CUDA_HOME environment variable is not set. Please set it to your CUDA install root.", "nvcc"),
        ("ModuleNotFoundError", "No module named 'lerobot.scripts.lerobot_train'", "PYTHONPATH"),
    ],
)  # fmt: skip
def test_a_box_that_lacks_something_gets_the_command(kind: str, text: str, command: str) -> None:
    found = judge(ended(kind, text))
    assert found.reason is Reason.TRAINER_BROKEN and command in found.fix


def test_a_missing_header_is_found_in_the_log_where_the_exception_has_none() -> None:
    failed = ended("CalledProcessError", "Command '['/usr/bin/gcc', '/tmp/main.c']' returned non-zero exit status 1.")
    log = ("/tmp/main.c:1:10: fatal error: Python.h: No such file or directory", "compilation terminated.")
    assert "python3-dev" in judge(replace(failed, log=log)).fix


def test_a_package_name_that_is_a_command_is_not_repeated() -> None:
    found = judge(ended("ImportError", "x is not installed, run: pip install --target /etc x; rm -rf /"))
    assert "rm -rf" not in found.fix and "--target" not in found.fix


# -- the network, and what only looks like it --------------------------------------------------------

CONNECT = Raised.of("ConnectError", "[Errno 111] Connection refused")
AWAY = (
    "We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files.\n"
    "Check your internet connection or see how to run the library in offline mode at "
    "'https://huggingface.co/docs/transformers/installation#offline-mode'."
)
NOT_FOUND = (
    "An error happened while trying to locate the file on the Hub and we cannot find the requested files in the local "
    "cache. Please check your connection and try again or make sure your Internet connection is on."
)


@pytest.mark.parametrize(
    "evidence",
    [
        ended("OSError", AWAY, Raised.of("LocalEntryNotFoundError", NOT_FOUND), CONNECT),
        ended("LocalEntryNotFoundError", NOT_FOUND, CONNECT),
        ended("LocalEntryNotFoundError", NOT_FOUND),
        ended("OSError", AWAY, Raised.of("HfHubHTTPError", "429 Client Error: Too Many Requests for url: x")),
        ended("HfHubHTTPError", "429 Too Many Requests: you have reached your 'api' rate limit.\nRetry after 120 s"),
        ended("HfHubHTTPError", "", status=503, module="huggingface_hub.errors"),
        ended("ReadError", module="httpx"),
        ended("ReadError"),
        ended("PoolTimeout", module="httpx"),
        ended("ServerDisconnectedError", "Server disconnected", module="aiohttp.client_exceptions"),
        ended("ClientPayloadError", "Response payload is not completed", module="aiohttp.client_exceptions"),
        ended("FSTimeoutError", module="fsspec.exceptions"),
        ended("ConnectionResetError", "[Errno 104] Connection reset by peer", frames=("urllib3/response.py:read",)),
        ended("TimeoutError", "The read operation timed out", frames=("/usr/lib/python3.12/ssl.py:read",)),
        ended("URLError", "<urlopen error [Errno -3] Temporary failure in name resolution>"),
        ended("RuntimeError", "x", Raised.of("ClientConnectorDNSError", "Cannot connect to host huggingface.co:443")),
    ],
)
def test_an_outage_waits_until_it_is_over(evidence: Evidence) -> None:
    assert diagnose(evidence) is Reason.NETWORK


@pytest.mark.parametrize(
    "evidence",
    [
        ended("OSError", AWAY, Raised.of("OfflineModeIsEnabled", "Cannot reach x: offline mode is enabled.")),
        ended("LocalEntryNotFoundError", "Cannot find the requested files in the disk cache and outgoing traffic has "
              "been disabled. To enable hf.co look-ups and downloads online, set 'local_files_only' to False."),
        ended("OfflineModeIsEnabled", "Cannot reach x", bases=("ConnectionError", "OSError", "Exception")),
        ended("OSError", AWAY),
    ],
)  # fmt: skip
def test_a_trainer_that_may_not_use_the_network_has_not_cached(evidence: Evidence) -> None:
    assert diagnose(evidence) is Reason.NOT_CACHED


@pytest.mark.parametrize(
    "evidence",
    [
        ended("RuntimeError", "DataLoader worker (pid(s) 812) exited unexpectedly",
              Raised.of("ConnectionResetError", "[Errno 104] Connection reset by peer")),
        ended("ConnectionResetError", "[Errno 104] Connection reset by peer",
              frames=("torch/utils/data/dataloader.py:_try_get_data", "/py/multiprocessing/connection.py:_recv")),
        ended("RuntimeError", "DataLoader timed out after 60 seconds"),
        ended("TimeoutExpired", "Command '['nvcc']' timed out after 60 seconds"),
        ended("BrokenPipeError", "[Errno 32] Broken pipe"),
        ended("ReadError", "not a gzip file", module="tarfile"),
        ended("UnsupportedProtocol", "Request URL is missing an 'http://' protocol.", module="httpx"),
        ended("HTTPStatusError", "Client error '400 Bad Request'", module="httpx", status=400),
        ended("EOFError"),
        ended("EOFError", frames=("/usr/lib/python3.12/multiprocessing/connection.py:_recv",)),
        ended("JSONDecodeError", "Expecting value: line 1 column 1 (char 0)"),
        ended("JSONDecodeError", "Expecting value", frames=(
            "lerobot/datasets/utils.py:get_repo_versions", "huggingface_hub/hf_api.py:list_repo_refs",
            "httpx/_models.py:json", "/usr/lib/python3.12/json/decoder.py:raw_decode")),
        ended("JSONDecodeError", "Expecting value", frames=(
            "lerobot/configs/policies.py:from_pretrained", "/usr/lib/python3.12/json/decoder.py:raw_decode")),
        ended("UnicodeDecodeError", "'utf-8' codec can't decode byte 0xff in position 0"),
        ended("ParserError", "Error tokenizing data", module="pandas.errors"),
        ended("ValueError", "the sequence was truncated to 48 tokens"),
        ended("RuntimeError", "Could not open the display"),
        ended("RuntimeError", "this is not supported on your device"),
        ended("ValueError", "the learning rate should be positive"),
        ended("KeyError", "'NVLink'"),
        ended("ValueError", "Couldn't instantiate the reward"),
        ended("UnpicklingError", "pickle data was truncated", frames=("/py/multiprocessing/connection.py:recv",)),
        ended("FileNotFoundError", "[Errno 2] No such file: '/opt/lib/python3.12/site-packages/datasets/x.json'"),
        ended("AuthenticationError", "digest received was wrong", module="multiprocessing.context"),
    ],
)  # fmt: skip
def test_a_word_or_a_name_that_others_use_too_ends_no_job_for_good(evidence: Evidence) -> None:
    assert diagnose(evidence) is Reason.TRAINER_FAILED


def test_a_data_loader_that_the_kernel_killed_is_a_memory_limit_for_all_its_words() -> None:
    lost = ended("RuntimeError", "DataLoader worker (pid(s) 812) exited unexpectedly",
                 Raised.of("ConnectionResetError", "[Errno 104] Connection reset by peer"))  # fmt: skip
    assert diagnose(replace(lost, memory=Memory(oom_kills=1))) is Reason.MEMORY_LIMIT


@pytest.mark.parametrize(
    "evidence",
    [
        ended("JSONDecodeError", "Expecting value", frames=(
            "lerobot/datasets/dataset_metadata.py:_load_metadata", "lerobot/datasets/io_utils.py:load_info",
            "lerobot/utils/io_utils.py:load_json", "/usr/lib/python3.12/json/decoder.py:raw_decode")),
        ended("UnicodeDecodeError", "'utf-8' codec can't decode", frames=(
            "/root/lerobot/src/lerobot/datasets/utils.py:load_tasks", "<frozen codecs>:decode")),
        ended("JSONDecodeError", "Expecting value: line 1 column 1 of /data/x/meta/info.json"),
        ended("EOFError", "Compressed file ended: /data/x/data/chunk-000/file-000.parquet"),
        ended("OSError", "image file is truncated (3 bytes not processed)"),
        ended("ArrowInvalid", "Parquet magic bytes not found in footer", module="pyarrow.lib"),
    ],
)  # fmt: skip
def test_a_file_of_the_dataset_is_damaged_where_one_is_named_or_was_read(evidence: Evidence) -> None:
    assert diagnose(evidence) is Reason.DATASET_DAMAGED


def test_shared_memory_of_data_loaders_is_told_from_a_full_disk() -> None:
    for text in (
        "unable to write to file </torch_1868_1954506624_0>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_9_1_2>: Resource temporarily unavailable (11)",
        "unable to mmap 2457600 bytes from file </torch_41_3>: Cannot allocate memory (12)",
    ):
        assert diagnose(ended("RuntimeError", text)) is Reason.SHM_FULL, text
    assert diagnose(ended("OSError", "[Errno 28] No space left on device: '/data/x'", errno=28)) is Reason.DISK_FULL


def test_error_numbers_count_in_any_language() -> None:
    assert diagnose(ended("OSError", "[Errno 28] 设备上没有空间", errno=28)) is Reason.DISK_FULL
    assert diagnose(ended("OSError", "[Errno 5] 输入/输出错误", errno=5)) is Reason.DISK_BROKEN


def test_a_status_counts_more_than_the_words_around_it() -> None:
    away = Raised(kind="HfHubHTTPError", text="", module="huggingface_hub.errors", status=504)
    assert is_outage(away) and not is_outage(replace(away, status=404))
    assert diagnose(Evidence(exit_code=1, error=replace(away, status=403))) is Reason.NEEDS_ACCESS
    assert diagnose(Evidence(exit_code=1, error=replace(away, status=404))) is Reason.NOT_ON_HUB


def test_wandbs_refusal_is_not_the_hubs() -> None:
    for kind, text, module in (
        ("CommError", "401 Client Error: Unauthorized for url: https://api.wandb.ai/graphql", "wandb.errors.errors"),
        ("UsageError", "No API key configured. Use `wandb login` to log in.", "wandb.errors"),
        ("UsageError", "Invalid project name a/b: cannot contain characters '/,\\,#,?,%,:', found '/'", "wandb.errors"),
    ):
        assert diagnose(ended(kind, text, module=module)) is Reason.WANDB_REFUSED, text
    lost = ended("CommError", "Run initialization has timed out after 90.0 sec", module="wandb.errors")
    assert diagnose(lost) is not Reason.WANDB_REFUSED


# -- messages of several lines -----------------------------------------------------------------------

MISMATCH = (
    "Feature mismatch between dataset/environment and policy config.\n- Missing features: "
    "['observation.images.base_0_rgb', 'observation.images.left_wrist_0_rgb']\n- Extra features: "
    "['observation.images.front', 'observation.images.wrist']\n\nPlease ensure your dataset and policy use consistent "
    "feature names.\nIf your dataset uses different observation keys, use the `--rename_map` argument"
)
SIZES = (
    "Error(s) in loading state_dict for PI05Policy:\n\tMissing key(s) in state_dict: \"model.layers.0.weight\", "
    + ", ".join(f'"model.layers.{n}.bias"' for n in range(60))
    + ". \n\tsize mismatch for model.{0}: copying a param with shape torch.Size([1024, 32]) from checkpoint, the shape "
    "in current model is torch.Size([1024, 7])."
)  # fmt: skip


def test_other_cameras_are_named_with_the_rename_map() -> None:
    found = judge(ended("ValueError", MISMATCH))
    assert found.reason is Reason.SPEC_REFUSED
    for camera in ("base_0_rgb", "left_wrist_0_rgb", "images.front", "images.wrist"):
        assert camera in found.detail
    assert "rename_map: {observation.images.front: observation.images.base_0_rgb" in found.fix


def test_a_camera_that_the_dataset_lacks_is_named_as_empty() -> None:
    text = MISMATCH.replace("['observation.images.front', 'observation.images.wrist']", "['observation.images.front']")
    assert "policy.empty_cameras: 1" in judge(ended("ValueError", text)).fix


@pytest.mark.parametrize(
    ("parameter", "flag"),
    [("action_in_proj.weight", "policy.max_action_dim: 32"), ("state_proj.weight", "policy.max_state_dim: 32"),
     ("decoder_pos_embed.weight", "policy.chunk_size: 32")],
)  # fmt: skip
def test_a_size_that_differs_names_parameter_shapes_and_flag(parameter: str, flag: str) -> None:
    found = judge(ended("RuntimeError", SIZES.replace("{0}", parameter)))
    assert found.reason is Reason.SPEC_REFUSED
    assert f"size mismatch for model.{parameter}" in found.detail and "[1024, 32]" in found.detail
    assert flag in found.fix


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "Validation error for field 'hidden_size':\n    TypeError: Field 'hidden_size' expected int, got str",
            "got str",
        ),
        ("2 validation errors for Config\nfps\n  Input should be a valid integer", "fps"),
        ("401 Client Error. (Request ID: x)\n\nRepository Not Found for url: https://huggingface.co/a/b", "a/b"),
        (
            "`episodes`: Could not decode the value into any of the given types:\n    list[int]: 'all' is no list",
            "is no list",
        ),
        ("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed", "FFmpeg"),
        ("unhandled errors in a TaskGroup (1 sub-exception)\n  | ValueError: no frame 3", "no frame 3"),
    ],
)
def test_lines_below_a_first_one_that_says_little_are_kept(text: str, word: str) -> None:
    found = judge(ended("SomeError", text))
    assert word in found.detail and "\n" not in found.detail


def test_lines_below_a_first_one_that_says_it_all_are_left_out() -> None:
    text = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com/x"
    assert "docs.nvidia.com" not in judge(ended("AcceleratorError", text)).detail


# -- timestamps ------------------------------------------------------------------------------------

FAR = (
    "One or several query timestamps unexpectedly violate the tolerance (tensor([{off}]) > tolerance_s=0.0001).It "
    "means that the closest frame that can be loaded from the video is too far away in time.\nqueried timestamps: "
    "tensor([1058.8667])\nloaded timestamps: tensor([1058.9000, 900.1])\nvideo: /data/videos/file-001.mp4"
)  # fmt: skip


def test_a_timestamp_that_is_a_frame_off_names_video_and_frame() -> None:
    found = judge(ended("FrameTimestampError", FAR.format(off="0.0333")))
    assert found.reason is Reason.DATASET_DAMAGED
    assert "/data/videos/file-001.mp4" in found.detail and "asks for 1058.8667 s" in found.detail
    assert "at 1058.9000 s" in found.detail and "cache rm" not in found.fix


def test_a_timestamp_that_is_rounded_names_the_tolerance() -> None:
    found = judge(ended("FrameTimestampError", FAR.format(off="0.0004")))
    assert "tolerance_s: 0.0005 (is 0.0001)" in found.fix


# -- files of the user's own -------------------------------------------------------------------------


def test_what_is_damaged_in_a_directory_of_the_users_is_not_cured_by_the_cache() -> None:
    weights = replace(ended("SafetensorError", "Error while deserializing header: header too large"),
                      train={"policy.pretrained_path": "/data/pi05"})  # fmt: skip
    assert "git lfs pull" in judge(weights).fix and "/data/pi05" in judge(weights).fix
    cached = replace(weights, train={"policy.pretrained_path": "/data/hf/hub/models--a--b/snapshots/12"})
    assert "pi0q cache rm" in judge(cached).fix
    dataset = replace(ended("ArrowInvalid", "Parquet magic bytes not found"), train={"dataset.root": "/data/grab_box"})
    assert "git lfs pull" in judge(dataset).fix and "cache rm" not in judge(dataset).fix
