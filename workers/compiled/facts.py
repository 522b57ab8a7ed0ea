"""Facts by which a job's kernels fit: GPUs and driver, the trainer's packages, the dataset's shapes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pi0q.jobs import compiled_kernels
from pi0q.jobs.compiled_kernels import CompiledFor
from pi0q.jobs.spec import Spec
from pi0q.workers.host import nvml

#: Seconds for a cold start of an interpreter on a slow disk.
PROBE_TIMEOUT = 60
#: torch/version.py is read without torch, whose import takes seconds.
PROBE = """
import importlib.metadata, importlib.util, json, pathlib, runpy, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return ""
found = {name: version(name) for name in ("torch", "triton", "lerobot")}
torch = importlib.util.find_spec("torch")
file = pathlib.Path(torch.submodule_search_locations[0], "version.py") if torch else None
built = runpy.run_path(str(file)) if file and file.is_file() else {}
found.update(python=".".join(map(str, sys.version_info[:3])), cuda=str(built.get("cuda") or ""))
print(json.dumps(found))
"""


class Unknown(Exception):
    """What the kernels would be compiled for can't be told; the text says why."""


def gather(spec: Spec, *, python: str, gpus: Iterable[str], dataset: Path | None) -> CompiledFor:
    """Return what a job's kernels are compiled for. Raises Unknown.

    `spec` is the job as its user wrote it, without this box's paths; `dataset` its dataset's directory, if it is here.
    """
    cards = tuple(gpus)
    named, driver = _cards(cards)
    versions = _versions(python)
    return CompiledFor(
        gpus=named,
        driver=driver,
        processor="" if cards else _processor(),
        train=compiled_kernels.shaping_flags(spec.train),
        features=compiled_kernels.input_shapes(_info(dataset)),
        **{name: str(versions[name]) for name in ("python", "torch", "cuda", "triton", "lerobot")},
    )


def _cards(uuids: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return name and compute capability of each card, and the driver's version."""
    if not uuids or all(uuid.startswith("FAKE-") for uuid in uuids):
        return tuple("simulated" for _ in uuids), ""
    try:
        binding = nvml.load()
    except nvml.Unavailable as error:
        raise Unknown(str(error)) from None
    try:
        named = tuple(_card(binding, uuid) for uuid in uuids)
        return named, str(nvml.text(binding.nvmlSystemGetDriverVersion()))
    except nvml.error_type(binding) as error:
        raise Unknown(str(error)) from None


def _card(binding: Any, uuid: str) -> str:
    handle = binding.nvmlDeviceGetHandleByUUID(uuid)
    major, minor = binding.nvmlDeviceGetCudaComputeCapability(handle)
    return f"{nvml.text(binding.nvmlDeviceGetName(handle))} {major}.{minor}"


def _processor() -> str:
    """Return the machine and a hash of its processor's name and flags."""
    wanted: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return f"{platform.machine()} {hashlib.sha256(chr(10).join(wanted).encode()).hexdigest()[:16]}"


def _versions(python: str) -> Mapping[str, Any]:
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise Unknown(f"the trainer's Python does not tell its versions ({type(error).__name__})") from None
    if not found["torch"]:
        raise Unknown("the trainer's Python has no torch")
    return found


def _info(dataset: Path | None) -> object:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if dataset:
            return json.loads((dataset / "meta" / "info.json").read_text(encoding="utf-8"))
    return None
