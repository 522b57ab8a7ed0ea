"""How each failure class is known by an exception: its type, package, numbers and frames first, exact words last.

A single word decides nothing that ends a job for good: words that several libraries use count only together with the
exception's type, its package or the place where it was raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pi0q.jobs.failures.raised import Raised
from pi0q.jobs.outcome import Reason

Test = Callable[[Raised], bool]

#: HTTP answers that may be others a little later.
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525})
#: Packages whose exceptions are about the network, whatever they say, unless REFUSALS names them.
_NETWORK_PACKAGES = frozenset({"aiohttp", "botocore", "h2", "httpcore", "httpx", "requests", "ssl", "urllib3"})
#: Of those packages: an address or an answer that is wrong each time.
_REFUSALS = frozenset({
    "HTTPError", "HTTPStatusError", "ClientResponseError", "JSONDecodeError", "InvalidJSONError", "InvalidURL",
    "InvalidSchema", "MissingSchema", "UnsupportedProtocol", "LocalProtocolError", "ContentTypeError", "DecodingError",
    "CookieConflict", "StreamConsumed", "LocationParseError", "InvalidHeader", "ClientError", "ParamValidationError",
    "NoCredentialsError", "TooManyRedirects", "StreamError", "ResponseNotRead", "RequestNotRead",
    "UnrewindableBodyError",
})  # fmt: skip
#: Names that say so without their package, as a log or an older hook has them.
_NETWORK_NAMES = frozenset({
    "ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "ReadError", "WriteError", "WriteTimeout",
    "PoolTimeout", "SSLError", "SSLEOFError", "SSLCertVerificationError", "ProxyError", "RemoteProtocolError",
    "IncompleteRead", "RemoteDisconnected", "ChunkedEncodingError", "ProtocolError", "MaxRetryError",
    "NewConnectionError", "NameResolutionError", "ReadTimeoutError", "ConnectTimeoutError", "EndpointConnectionError",
    "ServerDisconnectedError", "ServerTimeoutError", "SocketTimeoutError", "ConnectionTimeoutError",
    "ClientPayloadError", "ClientOSError", "ClientConnectorError", "ClientConnectorDNSError", "ClientConnectionError",
    "ClientConnectionResetError", "ClientProxyConnectionError", "ClientConnectorSSLError", "FSTimeoutError",
    "gaierror", "XetDownloadError", "CachedRepoTreeNotFoundError",
})  # fmt: skip
#: Errors of a socket that may as well be a pipe between a trainer's own processes.
_SOCKET_NAMES = (
    "ConnectionResetError", "ConnectionRefusedError", "ConnectionAbortedError", "BrokenPipeError", "TimeoutError",
)  # fmt: skip
_SOCKET_FRAMES = r"(?:^|/)(?:socket|ssl|http/client|urllib/request)\.py:"
_OWN_PROCESSES = r"(?:^|/)multiprocessing/|^torch/(?:multiprocessing|utils/data)/"
_NETWORK_WORDS = (
    r"Connection (?:refused|reset by peer|aborted)|Name or service not known|Temporary failure in name resolution|"
    r"Max retries exceeded|Network is unreachable|No route to host|Couldn't reach|EOF occurred in violation|"
    r"urlopen error|Remote end closed connection|Server disconnected|Connection timed out|Read timed out|"
    r"(?:operation|request|handshake|connect(?:ion)?|socket) timed out|IncompleteRead\(|"
    r"\b(?:408|425|429|500|502|503|504) (?:Client|Server) Error|\b429 Too Many Requests|"
    r"\b(?:408|425|429|500|502|503|504), message='|"
    r"error '(?:408|425|429|500|502|503|504) |HTTP Error (?:408|429|500|502|503|504)|"
    r"locate the file on the Hub and we cannot find the requested files in the local cache|"
    r"Consistency check failed: file should be of size"
)
_HUB = r"huggingface|hf\.co\b|hf-mirror|/resolve/|/api/(?:datasets|models)/|\bHub\b"
#: Where LeRobot and what reads its dataset for it stand.
_DATASET_FRAMES = (
    r"(?:^|/)lerobot/(?:common/)?datasets/|^datasets/(?:packaged_modules|arrow_|table|iterable_dataset|formatting)"
)
_DATASET_FILES = (
    r"(?:^|[/'\"\s])(?:meta/)?(?:info|stats|tasks|episodes|modality)\.jsonl?\b|tasks\.parquet|\.parquet\b|\.arrow\b|"
    r"\.mp4\b|episode_\d{6}|/meta/episodes|chunk-\d{3}/"
)
_INSTALLED = r"/(?:site|dist)-packages/"
#: The standard library's and readers' own frames: what called them says what was read.
_READERS = (
    r"(?:^|/)(?:json|encodings|multiprocessing|importlib|concurrent)/|(?:^|/)(?:codecs|pathlib|contextlib|threading|"
    r"gzip|zipfile|pickle|lzma|bz2|<frozen \w+>)\.py:|^(?:pandas|pyarrow|numpy|PIL|av|torchcodec|simplejson|orjson)/|"
    r"<frozen|(?:^|/)lerobot/(?:common/)?utils/"
)
_WEIGHTS = r"^torch/serialization|^safetensors/|(?:^|/)lerobot/(?:common/)?policies/pretrained"


@dataclass(frozen=True)
class Sign:
    """A class, and the test of an exception that shows it."""

    reason: Reason
    test: Test


def named(*names: str, packages: tuple[str, ...] = ()) -> Test:
    """Return the test for a class of one of these names, of one of these packages where its package is known."""
    return lambda raised: raised.kind in names and (not packages or raised.package in ("", *packages))


def says(pattern: str, *names: str) -> Test:
    """Return the test for words, in an exception of one of these classes (any if none)."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda raised: (not names or bool({*names} & {*raised.names})) and bool(compiled.search(raised.text))


def either(*tests: Test) -> Test:
    return lambda raised: any(test(raised) for test in tests)


def both(*tests: Test) -> Test:
    return lambda raised: all(test(raised) for test in tests)


def number(*numbers: int) -> Test:
    """Return the test for one of these error numbers of the operating system."""
    return lambda raised: raised.errno in numbers


def reader_of(raised: Raised) -> str:
    """Return the innermost frame that says what was read: below it are only readers of any file; "" if none."""
    return next((frame for frame in reversed(raised.frames) if not re.search(_READERS, frame)), "")


def stands_in(pattern: str) -> Test:
    """Return the test for the frame that raised it, readers of any file left out."""
    return lambda raised: bool(re.search(pattern, reader_of(raised)))


def stands_deep(pattern: str) -> Test:
    """Return the test for the innermost frame of all."""
    return lambda raised: bool(raised.frames) and bool(re.search(pattern, raised.frames[-1]))


def of_dataset(raised: Raised) -> bool:
    """Return whether its words or the place where it was raised name a file of the dataset."""
    named_file = re.search(_DATASET_FILES, raised.text) and not re.search(_INSTALLED, raised.text)
    return bool(named_file) or bool(re.search(_DATASET_FRAMES, reader_of(raised)))


def of_hub(raised: Raised) -> bool:
    """Return whether it is about the Hugging Face Hub."""
    return raised.package in ("huggingface_hub", "transformers") or bool(re.search(_HUB, raised.text))


def is_outage(raised: Raised) -> bool:
    """Return whether a network or a server did not answer, or not this time."""
    if raised.status is not None:
        return raised.status in PASSING_STATUSES
    if raised.kind == "OfflineModeIsEnabled":
        return False
    if raised.kind in _SOCKET_NAMES and raised.package in ("", "builtins"):
        return _came_from_socket(raised)
    if raised.package in _NETWORK_PACKAGES or raised.module == "fsspec.exceptions":
        return (raised.kind not in _REFUSALS and "ValueError" not in raised.bases) or _speaks_of_network(raised)
    # A name is its library's own: ReadError is tarfile's as well.
    known = ("", "builtins", "http", "urllib", "socket", "_ssl", "huggingface_hub", "fsspec", "datasets", "wandb")
    return (raised.kind in _NETWORK_NAMES and raised.package in known) or _speaks_of_network(raised)


def _came_from_socket(raised: Raised) -> bool:
    """Return whether one of Python's own errors is a network's: a pipe between processes raises the same."""
    if any(re.search(_OWN_PROCESSES, frame) for frame in raised.frames):
        return False
    network = (frame.partition("/")[0] in _NETWORK_PACKAGES for frame in raised.frames)
    if any(network) or any(re.search(_SOCKET_FRAMES, frame) for frame in raised.frames):
        return True
    return not raised.frames and bool(re.search(r"\b11[01]\b|timed out|refused", raised.text))


def _speaks_of_network(raised: Raised) -> bool:
    return bool(re.search(_NETWORK_WORDS, raised.text)) and raised.kind not in ("TimeoutExpired", "CalledProcessError")


def _status(*statuses: int) -> Test:
    return lambda raised: raised.status in statuses


_COMPILE_KINDS = (
    "OutOfResources", "InductorError", "BackendCompilerFailed", "CompilationError", "TorchRuntimeError",
    "NoValidChoicesError", "LoweringException", "Unsupported", "PTXASError",
)  # fmt: skip
#: What has no meaning but a package that is missing, in the words of the libraries that look for one.
MISSING_PACKAGE = (
    r"need to have \S+(?: or \S+)* installed|requires the (?:following )?\S+ (?:library|package)s?\b.{0,80}?not found|"
    r"requires the following packages that were not found|package \S+ seems to be not installed|"
    r"is not installed\b.{0,200}?pip install|(?:run|with|using|via|[Tt]ry|Install).{0,40}?`?(?:uv )?pip install |"
    r"[Pp]lease install|is required.{0,80}?pip install|'?\S+'? is required but not installed"
)
#: What a box lacks that compiles a kernel while a training starts.
NO_COMPILER = (
    r"Failed to find C compiler|(?:/|')(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|x86_64-linux-gnu-gcc)(?:-\d+)?'?"
    r"[^\n]*returned non-zero|Python\.h: No such file|No working C\+\+ compiler|C\+\+ compiler.{0,40}?not found|"
    r"\b(?:gcc|g\+\+|cc1plus|c\+\+|clang\+\+)\b.{0,40}?(?:No such file or directory|not found|cannot execute)|"
    r"[Ii]nvalidCxxCompiler|libcuda\.so cannot (?:be )?found|cannot find -l(?:cuda|python)|crypt\.h: No such file"
)
#: What a CUDA extension that is built on the box says when that fails.
EXTENSION = (
    r"Error building extension|nvlink error|Ninja is required to load C\+\+ extensions|ninja: build stopped|"
    r"CUDA_HOME environment variable is not set|nvcc fatal|Could not find nvcc|ptxas fatal|Cannot find ptxas"
)

#: Checked in this order; what comes out of the disk, the GPU or the kernel goes before what names a mistake.
SIGNS: tuple[Sign, ...] = (
    Sign(Reason.NON_FINITE_LOSS, named("NonFiniteLoss")),
    Sign(Reason.SPEC_REFUSED, named("DecodingError", "ParsingError", packages=("draccus",))),
    Sign(Reason.SPEC_REFUSED, both(named("ParserError", "ScannerError", "ConstructorError", packages=("yaml",)),
                                   lambda raised: raised.package == "yaml" or "<unicode string>" in raised.text)),
    Sign(Reason.CUDA_OUT_OF_MEMORY, says(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
                                         r"HIP out of memory|cudaErrorMemoryAllocation|CUDNN_STATUS_ALLOC_FAILED")),
    Sign(Reason.CUDA_OUT_OF_MEMORY, named("OutOfMemoryError", packages=("torch",))),
    Sign(Reason.NO_CUDA, says(r"No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver version is insufficient|"
                              r"Torch not compiled with CUDA|no kernel image is available|CUDA is not available|"
                              r"CUDA-capable device\(s\) is/are busy or unavailable|Driver/library version mismatch|"
                              r"no CUDA-capable device|CUDA driver initialization failed|system not yet initialized|"
                              r"CUDA unknown error|CUDA error: unknown error")),
    Sign(Reason.NCCL, says(r"gloo/transport/")),
    Sign(Reason.NCCL, named("DistBackendError", "DistNetworkError", "DistStoreError")),
    Sign(Reason.NCCL, says(r"NCCL (?:error|WARN|watchdog)|Watchdog caught collective|ncclSystemError|ProcessGroupNCCL|"
                           r"unhandled (?:system|cuda) error.*nccl|ncclUnhandledCudaError")),
    Sign(Reason.CUDA_ERROR, says(r"CUDA error: |CUBLAS_STATUS_|CUDNN_STATUS_|cuDNN error|device-side assert triggered|"
                                 r"an illegal memory access|unspecified launch failure|uncorrectable ECC error|"
                                 r"uncorrectable NVLink error")),
    Sign(Reason.CUDA_ERROR, named("AcceleratorError", packages=("torch",))),
    Sign(Reason.SHM_FULL, says(r"shared memory\(shm\)|[Ii]nsufficient shared memory|signal: Bus error|"
                               r"bus error encountered in worker|torch_shm_manager.*failed|"
                               r"unable to (?:write to|mmap|resize|allocate|open)[^\n]*</?torch_[^\n]*"
                               r"(?:No space left|Cannot allocate|\(28\)|\(12\))|"
                               r"unable to (?:write to|resize) file </?torch_\w+>(?: to the right size)?")),
    # Semaphores lie in /dev/shm as well.
    Sign(Reason.SHM_FULL, both(either(number(28), says(r"\[Errno 28\]")),
                               stands_deep(r"multiprocessing/synchronize\.py"))),
    Sign(Reason.DISK_FULL, number(28, 122, 27)),
    Sign(Reason.DISK_FULL, says(r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|"
                                r"os error (?:28|122)\b|File too large|\[Errno 27\]|"
                                r"PytorchStreamWriter failed writing|inline_container\S* .*unexpected pos")),
    Sign(Reason.DISK_BROKEN, number(5, 30, 107, 116)),
    Sign(Reason.DISK_BROKEN, says(r"Read-only file system|Input/output error|Stale file handle|"
                                  r"Transport endpoint is not connected|\[Errno (?:5|30|107|116)\]")),
    Sign(Reason.TRAINER_CRASHED, says(r"killed by signal: (?:Segmentation fault|Illegal instruction|Aborted)")),
    Sign(Reason.MEMORY_LIMIT, named("MemoryError", "ArrowMemoryError", "_ArrayMemoryError")),
    Sign(Reason.MEMORY_LIMIT, says(r"DefaultCPUAllocator: (?:can't|not enough)|Cannot allocate memory|\[Errno 12\]|"
                                   r"std::bad_alloc|signal: Killed")),
    Sign(Reason.MEMORY_LIMIT, number(12)),
    Sign(Reason.WANDB_REFUSED, both(either(named("UsageError", "AuthenticationError", "CommError"),
                                           lambda raised: raised.package == "wandb"),
                                    either(_status(401, 403),
                                           says(r"(?i)api[ _]key|wandb login|log ?in\b|permission denied|"
                                                r"invalid project name|entity \S+ not found|not logged in|40[13]\b")))),
    Sign(Reason.NEEDS_ACCESS, named("GatedRepoError", "DisabledRepoError")),
    Sign(Reason.NOT_CACHED, named("OfflineModeIsEnabled")),
    Sign(Reason.NOT_CACHED, says(r"outgoing traffic has been disabled|offline mode is enabled|HF_HUB_OFFLINE")),
    Sign(Reason.NOT_ON_HUB, named("RepositoryNotFoundError")),
    Sign(Reason.NETWORK, both(of_hub, is_outage)),
    Sign(Reason.NEEDS_ACCESS, both(_status(401, 403), of_hub)),
    Sign(Reason.NEEDS_ACCESS, says(r"gated repo\b|Access to (?:model|dataset) .* is restricted|"
                                   r"You are not authenticated|Invalid username or password")),
    Sign(Reason.NEEDS_ACCESS, both(of_hub, says(r"\b40[13] Client Error|error '40[13] |HTTP Error 40[13]"))),
    Sign(Reason.NOT_ON_HUB, says(r"not found on the HuggingFace Hub|Repository Not Found for url|"
                                 r"is not a local folder and is not a valid model identifier")),
    Sign(Reason.NOT_ON_HUB, both(of_hub, either(_status(404), says(r"\b404 (?:Client Error|Not Found)")))),
    Sign(Reason.DATASET_FORMAT, named("BackwardCompatibilityError", "ForwardCompatibilityError")),
    Sign(Reason.DATASET_FORMAT, says(r"must be tagged with a codebase version|convert_dataset_v2|is in 2\.[01] format|"
                                     r"Contact the maintainer on \[Discord\]|The dataset you requested")),
    Sign(Reason.NOT_ON_HUB, named("RevisionNotFoundError", "RemoteEntryNotFoundError")),
    Sign(Reason.NETWORK, is_outage),
    Sign(Reason.NOT_CACHED, named("LocalEntryNotFoundError", "EntryNotFoundError", "IncompleteSnapshotError")),
    Sign(Reason.NOT_CACHED, says(r"We couldn't connect to '.*' to load th")),
    Sign(Reason.TRAINER_BROKEN, says(r"libtorchcodec|incorrect transformer version|FFmpeg is not properly|libavutil|"
                                     r"has no attribute '__version__'|GLIBC(?:XX)?_|: undefined symbol|cannot open "
                                     r"shared object|numpy\.dtype size changed|compiled using NumPy 1|"
                                     r"VideoReader.*removed|torchvision::nms")),
    Sign(Reason.TRAINER_BROKEN, says(MISSING_PACKAGE, "ImportError", "ValueError", "OSError", "RuntimeError",
                                     "NameError", "AttributeError")),
    Sign(Reason.TRAINER_BROKEN, says(NO_COMPILER, *_COMPILE_KINDS, "RuntimeError", "CalledProcessError", "OSError",
                                     "AssertionError", "InvalidCxxCompiler", "CppCompileError", "FileNotFoundError")),
    Sign(Reason.TRAINER_BROKEN, says(EXTENSION, "RuntimeError", "OSError", "CalledProcessError", *_COMPILE_KINDS)),
    Sign(Reason.TRAINER_BROKEN, named("ModuleNotFoundError", "ImportError", "PackageNotFoundError", "VersionConflict",
                                      "InvalidCxxCompiler", "CppCompileError")),
    Sign(Reason.COMPILE_FAILED, named(*_COMPILE_KINDS, packages=("torch", "triton"))),
    Sign(Reason.WEIGHTS_DAMAGED, both(named("SafetensorError"), lambda raised: "while serializing" not in raised.text)),
    Sign(Reason.WEIGHTS_DAMAGED, both(named("UnpicklingError", "EOFError", "RuntimeError"), stands_in(_WEIGHTS),
                                      says(r"^(?!.*Error\(s\) in loading)"))),
    Sign(Reason.WEIGHTS_DAMAGED, says(r"deserializing header|did not load the weights|PytorchStreamReader failed|"
                                      r"Weights only load failed|invalid load key", "SafetensorError", "RuntimeError",
                                      "UnpicklingError", "OSError")),
    Sign(Reason.DATASET_DAMAGED, named("DatasetGenerationError", "FrameTimestampError", "UnidentifiedImageError")),
    Sign(Reason.DATASET_DAMAGED, named("ArrowInvalid", "ArrowIOError", packages=("pyarrow",))),
    Sign(Reason.DATASET_DAMAGED, named("InvalidDataError", "EndOfFileError", packages=("av",))),
    Sign(Reason.DATASET_DAMAGED, both(named("EOFError", "JSONDecodeError", "UnicodeDecodeError", "ParserError",
                                            "InvalidData", "ParquetError", "BadZipFile", "BadGzipFile", "SyntaxError"),
                                      of_dataset)),
    Sign(Reason.DATASET_DAMAGED, says(r"Parquet magic bytes|not a parquet file|Invalid data found when processing|"
                                      r"moov atom not found|violate the tolerance|image file is truncated|"
                                      r"cannot identify image|No valid stream found in input|"
                                      r"Requested next frame while|broken data stream when reading image")),
    Sign(Reason.DATASET_DAMAGED, both(says(r"Could not (?:open|seek|decode)|truncated"), of_dataset)),
    Sign(Reason.DATASET_MISSING, both(named("FileNotFoundError", "NotADirectoryError", "DatasetNotFoundError"),
                                      either(of_dataset,
                                             both(says(r"(?i)\bdatasets?\b|episodes|/meta/"),
                                                  lambda raised: not re.search(_INSTALLED, raised.text))))),
    Sign(Reason.SPEC_REFUSED, says(r"batch_size should be|A config_path is expected|repo_id' argument missing|"
                                   r"You must provide at least one image|Output directory .* already exists|"
                                   r"Neither policy nor reward_model|Please specify one with `?--|"
                                   r"Policy is not configured|Policy type '\S*' .*is not (?:available|registered)|"
                                   r"Missing required field\(s\)|Couldn't parse '.*' into an? |"
                                   r"Couldn't instantiate class |Couldn't find a choice class|unrecognized arguments|"
                                   r"size mismatch for|(?:Missing|Unexpected) key\(s\) in state_dict|"
                                   r"Feature mismatch between|Episode indices|All image features are missing|"
                                   r"argument \S+: invalid choice")),
    Sign(Reason.SPEC_REFUSED, named("HFValidationError")),
    # The code that reads flags and configurations refuses them.
    Sign(Reason.SPEC_REFUSED, both(named("ValueError", "NotImplementedError", "AssertionError"),
                                   stands_in(r"^draccus/|(?:^|/)lerobot/(?:common/)?(?:configs/|policies/\w+/"
                                             r"configuration_|optim/|envs/configs)"))),
)  # fmt: skip
