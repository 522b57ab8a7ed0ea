"""What a trainer died of, from what was seen: exit code, then counters and signal, then exception, then log lines."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from pi0q.jobs.evidence import Evidence, others_gib, refused_flag, unwrapped
from pi0q.jobs.outcome import EXIT_LEASE_OVER, EXIT_NON_FINITE, EXIT_SAVED_AND_STOPPED, Reason

#: Exit codes that say all there is to say.
EXITS: dict[int, Reason] = {
    0: Reason.FINISHED,
    EXIT_SAVED_AND_STOPPED: Reason.STOPPED_BY_BOX,
    EXIT_LEASE_OVER: Reason.STOPPED_BY_BOX,
    EXIT_NON_FINITE: Reason.NON_FINITE_LOSS,
}
#: VRAM that other processes hold before they are to blame for an out-of-memory, GiB.
OTHERS_GIB = 4.0
#: How full the memory is when a SIGKILL that nobody owns up to is the platform's, 0 to 1.
NEARLY_FULL = 0.9
#: A /dev/shm below this is too small for data loaders, MiB: Docker gives 64.
SMALL_SHM_MIB = 1024
#: NVIDIA's Xid numbers that mean the card or its link, not the program: double-bit and uncontained memory errors, rows
#: that can't be remapped, NVLink, off the bus, a dead firmware.
XIDS_OF_HARDWARE = frozenset({46, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 110, 119, 120, 140, 143})


@dataclass(frozen=True)
class Sign:
    """How a class is known by an exception: its name is one of these (any if none), and the text is found in it."""

    reason: Reason
    names: tuple[str, ...] = ()
    #: Regular expression; empty: the name alone says it.
    says: str = ""


_NET = r"Connection (?:refused|reset|aborted)|Name or service not known|Temporary failure in name resolution|" \
       r"Max retries exceeded|timed out|Network is unreachable|Couldn't reach|EOF occurred in violation|" \
       r"(?:429|500|502|503|504) (?:Client|Server) Error|" \
       r"error '(?:429|500|502|503|504) "  # fmt: skip

#: Checked in this order; what comes out of the disk, the GPU or the kernel goes before what names a mistake.
SIGNS: tuple[Sign, ...] = (
    Sign(Reason.NON_FINITE_LOSS, ("NonFiniteLoss",)),
    Sign(Reason.SPEC_REFUSED, ("DecodingError", "ParsingError", "ParserError", "ScannerError")),
    Sign(Reason.GPU_LOST, (), r"(?i)uncorrectable ECC|(?:GPU|device) (?:is|has been) lost|fallen off the bus|"
                              r"cudaErrorECCUncorrectable|GPU requires reset|hardware stack error|NVLink|"
                              r"Unable to determine the device handle"),
    Sign(Reason.CUDA_OUT_OF_MEMORY, (), r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
                                        r"HIP out of memory|cudaErrorMemoryAllocation|CUDNN_STATUS_ALLOC_FAILED"),
    Sign(Reason.CUDA_OUT_OF_MEMORY, ("OutOfMemoryError",)),
    Sign(Reason.NO_CUDA, (), r"No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver version is insufficient|"
                             r"Torch not compiled with CUDA|no kernel image is available|CUDA is not available|"
                             r"busy or unavailable|Driver/library version mismatch|no CUDA-capable device|"
                             r"CUDA driver initialization failed|system not yet initialized|unknown error"),
    Sign(Reason.NCCL, ("DistBackendError", "DistNetworkError", "DistStoreError")),
    Sign(Reason.NCCL, (), r"NCCL (?:error|WARN|watchdog)|Watchdog caught collective|ncclSystemError|ProcessGroupNCCL|"
                          r"unhandled (?:system|cuda) error.*nccl|ncclUnhandledCudaError"),
    Sign(Reason.CUDA_ERROR, (), r"CUDA error: |CUBLAS_STATUS_|CUDNN_STATUS_|cuDNN error|device-side assert triggered|"
                                r"illegal memory access|unspecified launch failure"),
    Sign(Reason.CUDA_ERROR, ("AcceleratorError",)),
    Sign(Reason.SHM_FULL, (), r"shared memory\(shm\)|[Ii]nsufficient shared memory|out of shared memory|"
                              r"signal: Bus error|bus error encountered in worker|torch_shm_manager.*failed"),
    Sign(Reason.DISK_FULL, (), r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|"
                               r"os error (?:28|122)\b|File too large|\[Errno 27\]"),
    Sign(Reason.DISK_BROKEN, (), r"Read-only file system|Input/output error|Stale file handle|"
                                 r"Transport endpoint is not connected|\[Errno (?:5|30|107|116)\]"),
    Sign(Reason.TRAINER_CRASHED, (), r"killed by signal: (?:Segmentation fault|Illegal instruction|Aborted)"),
    Sign(Reason.MEMORY_LIMIT, ("MemoryError", "ArrowMemoryError", "_ArrayMemoryError")),
    Sign(Reason.MEMORY_LIMIT, (), r"DefaultCPUAllocator: (?:can't|not enough)|Cannot allocate memory|\[Errno 12\]|"
                                  r"std::bad_alloc|signal: Killed"),
    Sign(Reason.NEEDS_ACCESS, ("GatedRepoError",)),
    Sign(Reason.NOT_CACHED, ("OfflineModeIsEnabled", "LocalEntryNotFoundError")),
    Sign(Reason.NOT_CACHED, (), r"offline mode|outgoing traffic has been disabled"),
    Sign(Reason.NOT_ON_HUB, ("RepositoryNotFoundError",)),
    Sign(Reason.NEEDS_ACCESS, (), r"gated repo|Access to (?:model|dataset) .* is restricted|401 Client Error|"
                                  r"403 Client Error|error '40[13] |Invalid username or password|"
                                  r"You are not authenticated"),
    Sign(Reason.NOT_ON_HUB, (), r"not found on the HuggingFace Hub|Repository Not Found|404 (?:Client|Not Found)|"
                                r"is not a local folder and is not a valid model identifier"),
    Sign(Reason.DATASET_FORMAT, ("BackwardCompatibilityError", "ForwardCompatibilityError")),
    Sign(Reason.DATASET_FORMAT, (), r"must be tagged with a codebase version|convert_dataset_v2|is in 2\.[01] format|"
                                    r"Contact the maintainer on \[Discord\]|dataset you requested"),
    Sign(Reason.NOT_ON_HUB, ("RevisionNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError")),
    Sign(Reason.TRAINER_BROKEN, (), r"libtorchcodec|incorrect transformer version|FFmpeg is not properly|libavutil|"
                                    r"has no attribute '__version__'|GLIBC(?:XX)?_|undefined symbol|cannot open shared "
                                    r"object|numpy\.dtype size changed|compiled using NumPy 1|VideoReader.*removed|"
                                    r"torchvision::nms|is not installed\b|pip install"),
    Sign(Reason.TRAINER_BROKEN, ("ModuleNotFoundError", "ImportError", "PackageNotFoundError", "VersionConflict")),
    Sign(Reason.COMPILE_FAILED, ("OutOfResources", "InductorError", "BackendCompilerFailed", "CompilationError",
                                 "TorchRuntimeError", "NoValidChoicesError", "LoweringException", "Unsupported")),
    Sign(Reason.WEIGHTS_DAMAGED, ("SafetensorError", "UnpicklingError")),
    Sign(Reason.WEIGHTS_DAMAGED, (), r"deserializing header|did not load the weights|PytorchStreamReader failed"),
    Sign(Reason.NETWORK, ("ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "SSLError", "ProxyError",
                          "RemoteProtocolError", "CommError", "ConnectionResetError", "IncompleteRead",
                          "ChunkedEncodingError")),
    Sign(Reason.NETWORK, (), _NET),
    Sign(Reason.DATASET_DAMAGED, ("ArrowInvalid", "ArrowIOError", "InvalidDataError", "DatasetGenerationError",
                                  "FrameTimestampError", "UnidentifiedImageError", "ParquetError", "EOFError",
                                  "JSONDecodeError", "UnicodeDecodeError", "EndOfFileError", "InvalidData")),
    Sign(Reason.DATASET_DAMAGED, (), r"Parquet magic bytes|not a parquet file|Invalid data found when processing|"
                                     r"moov atom not found|violate the tolerance|truncated|cannot identify image|"
                                     r"No valid stream found|Could not (?:open|seek|decode)|Requested next frame"),
    Sign(Reason.DATASET_MISSING, ("FileNotFoundError", "NotADirectoryError", "DatasetNotFoundError"),
         r"(?i)dataset|episodes|\.parquet|\.mp4|info\.json|stats\.json|tasks\.|/meta"),
    Sign(Reason.WANDB_REFUSED, ("UsageError", "AuthenticationError", "CommError"), r"(?i)api[ _]key|wandb|log ?in"),
    Sign(Reason.SPEC_REFUSED, (), r"batch_size should be|A config_path is expected|repo_id' argument missing|"
                                  r"You must provide at least one image|Output directory .* already exists|"
                                  r"Neither policy nor reward_model|Please specify one with|is not supported\b|"
                                  r"should be (?:a )?(?:positive|less|smaller|greater)|Policy is not configured|"
                                  r"Missing required field|Couldn't (?:parse|instantiate)|unrecognized arguments|"
                                  r"size mismatch for|Missing key\(s\) in state_dict|Feature mismatch|"
                                  r"Episodes? .*(?:not|out of)|All image features|invalid choice"),
)  # fmt: skip

#: Signals of a program that broke inside: not its Python, but a library, the processor or the memory under it.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS})
#: What stands in the log where no exception could be reported, and what it means. The last line that says one counts.
LOG_SIGNS: tuple[tuple[Reason, str], ...] = (
    (Reason.NCCL, r"Watchdog caught collective|NCCL watchdog thread terminated|ncclSystemError|DistBackendError"),
    (Reason.GPU_LOST, r"uncorrectable ECC|fallen off the bus|NVRM: Xid .*: (?:48|79|94|95|119|120),"),
    (Reason.SHM_FULL, r"bus error encountered in worker|insufficient shared memory"),
    (Reason.CUDA_OUT_OF_MEMORY, r"CUDA out of memory|CUDA error: out of memory"),
    (Reason.CUDA_ERROR, r"CUDA error: |device-side assert triggered"),
    (Reason.DISK_FULL, r"No space left on device"),
    # Where transformers is missing, LeRobot 0.4's pi0 has None in its place.
    (
        Reason.TRAINER_BROKEN,
        r"CONFIG_MAPPING\[|error while loading shared libraries|No module named|can't open file|GLIBC",
    ),
    (Reason.MEMORY_LIMIT, r"std::bad_alloc|Out of memory: Killed process"),
)


def diagnose(evidence: Evidence) -> Reason:
    """The class of this end."""
    if evidence.heard == "hung":
        return _hardware(evidence) or Reason.HUNG
    if evidence.exit_code in EXITS:
        return EXITS[evidence.exit_code]
    kind, text = unwrapped(*evidence.spoken())
    if kind == "SystemExit" and (evidence.exit_code == 2 or refused_flag(evidence.lines)):
        return Reason.SPEC_REFUSED
    return (
        _hardware(evidence)
        or _memory(evidence, text)
        or _killed(evidence, kind)
        or _own_dataset(evidence, text)
        or _said(kind, text, evidence.behind())
        or _crashed(evidence)
        or _logged(evidence)
        or (Reason.SPEC_REFUSED if evidence.exit_code == 2 else Reason.TRAINER_FAILED)
    )


def _hardware(evidence: Evidence) -> Reason | None:
    for gpu in evidence.gpus:
        if gpu.lost or gpu.ecc_errors or XIDS_OF_HARDWARE & set(gpu.xids):
            return Reason.GPU_LOST
    return None


def _memory(evidence: Evidence, text: str) -> Reason | None:
    """Counters of the memory group: only together with a SIGKILL do they speak of this trainer."""
    loader = "signal: Killed" in text or "exited unexpectedly" in text
    if (evidence.signal == signal.SIGKILL or loader) and evidence.memory.oom_kills:
        return Reason.MEMORY_LIMIT
    # Who killed a data loader where the kernel says that it did not?
    innocent = evidence.memory.oom_kills == 0 and evidence.memory.share < NEARLY_FULL
    return Reason.TRAINER_KILLED if "signal: Killed" in text and innocent else None


def _killed(evidence: Evidence, kind: str) -> Reason | None:
    if evidence.signal == signal.SIGKILL:
        return Reason.PLATFORM_KILLED if evidence.memory.share >= NEARLY_FULL else Reason.TRAINER_KILLED
    ended = evidence.signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    return Reason.TRAINER_KILLED if ended or (kind == "KeyboardInterrupt") else None


def _own_dataset(evidence: Evidence, text: str) -> Reason | None:
    """LeRobot goes to the Hub for whatever a dataset in a directory lacks."""
    repo = evidence.train.get("dataset.repo_id")
    wanted = f"/datasets/{repo}" in " ".join([text, *evidence.behind()])
    return Reason.DATASET_MISSING if wanted and evidence.train.get("dataset.root") else None


def _said(kind: str, text: str, causes: tuple[str, ...]) -> Reason | None:
    """By its exception, else by those behind it: `An error occurred while generating` has its cause there."""
    told = [(kind, text)] + [tuple[str, str](cause.partition(": ")[::2]) for cause in causes]
    for sign in SIGNS:
        for name, said in told:
            named = not sign.names or name.rpartition(".")[2] in sign.names
            if named and (bool(sign.names) if not sign.says else re.search(sign.says, said, re.S)):
                taken = sign.reason is Reason.CUDA_OUT_OF_MEMORY and others_gib(said) >= OTHERS_GIB
                return Reason.GPU_TAKEN if taken else sign.reason
    return None


def _crashed(evidence: Evidence) -> Reason | None:
    if evidence.signal not in _CRASHES:
        return None
    if logged := _logged(evidence):
        return logged
    small = evidence.shm_mib is not None and min(evidence.shm_mib, 16 * (evidence.shm_free_mib or 0)) < SMALL_SHM_MIB
    return Reason.SHM_FULL if evidence.signal == signal.SIGBUS and small else Reason.TRAINER_CRASHED


def _logged(evidence: Evidence) -> Reason | None:
    for line in reversed(evidence.lines):
        for reason, says in LOG_SIGNS:
            if re.search(says, line):
                return reason
    return None
