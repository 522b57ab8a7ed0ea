"""Faults of a box's trainer environment and memory, as values. Pure.

The worker refuses a job whose need a finding leaves unmet; `pi0q doctor` prints every finding with its fix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pi0q.workers.host.gpu_mode import SMALL_MEMORY_MIB

#: Creates a correct environment; conda keeps it apart from pi0q's own packages.
CREATE_ENVIRONMENT = (
    "conda create -y -n lerobot python=3.12 && "
    "conda run -n lerobot pip install 'lerobot[training,pi]==0.6.1' 'wandb>=0.20,<1'"
)
#: Arguments after `python -m` that repair an environment, install WandB, install a torch that knows every GPU up to
#: Blackwell (sm_120).
REPAIR = "pip install 'lerobot[training,pi]==0.6.1' 'wandb>=0.20,<1'"
INSTALL_WANDB = "pip install 'wandb>=0.20,<1'"
INSTALL_SWANLAB = "pip install 'swanlab>=0.10.3,<0.11'"
#: The first release whose `swanlab sync` goes on with a run.
SWANLAB = (0, 10)
INSTALL_TORCH = "pip install --force-reinstall 'torch>=2.7,<2.12' torchvision"
TAKE_OUT = "unset PYTHONPATH where the worker starts (~/.bashrc, its service or script), then start the worker again"
INSTALL_FFMPEG = "conda install -c conda-forge 'ffmpeg<8'"
#: The first LeRobot with a usable pi0 needs this Python.
PI0_PYTHON = (3, 12)

#: The base weights of pi0 pass through this much memory, in 32 bits. MiB.
PI0_MEMORY_MIB = 14 * 1024
#: Base weights and optimizer state together. MiB.
COMFORTABLE_MEMORY_MIB = 24 * 1024
MISSING_GPU_FIX = "start the container with its GPU in AutoDL's console"


class Need(Enum):
    """What a job needs of a box."""

    #: Every job.
    TRAINER = "trainer"
    GPU = "gpu"
    PI0 = "pi0"
    WANDB = "wandb"
    VIDEO = "video"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault, the need that it leaves unmet, and its fix."""

    #: What is at fault, as `trainer`, `cuda` or `memory`.
    subject: str
    detail: str
    #: Jobs with this need cannot run here; None: no job is prevented.
    prevents: Need | None
    #: Command on the box.
    fix: str
    #: What the job file can say instead; "" if nothing helps there.
    job_fix: str = ""

    def refusal(self) -> str:
        """Return why the box does not take a job with this need."""
        fix = self.job_fix or "`pi0q doctor` on the box names the command"
        return f"{self.subject}: {self.detail}. Fix: {fix}"


def environment(seen: Mapping[str, Any], python: str) -> Iterator[Finding]:
    """Yield the faults of an inspected environment, except those of GPUs and video decoders.

    Args:
        seen: What `inspect_main` printed, or `error` alone.
        python: The inspected interpreter, for the commands.
    """
    repair = f"{python} -m {REPAIR}"
    if fatal := _fatal(seen, repair):
        yield fatal
        return
    if unmet := _unmet(seen):
        yield Finding(subject="trainer", detail="; ".join(unmet), prevents=None, fix=repair)
    if others := _foreign(seen):
        detail = f"{others}; the installed ones are not used"
        yield Finding(subject="PYTHONPATH", detail=detail, prevents=None, fix=TAKE_OUT)
    if error := seen.get("pi0_error"):
        detail = f"pi0 can't be imported ({error}); ACT and other small policies can train"
        fix = repair if _has_pi0_python(seen) else CREATE_ENVIRONMENT
        yield Finding(subject="pi0", detail=detail, prevents=Need.PI0, fix=fix)
    if not seen.get("wandb"):
        detail = "the trainer's environment has no wandb, so jobs with wandb.enable fail"
        yield Finding(
            subject="wandb package", detail=detail, prevents=Need.WANDB, fix=f"{python} -m {INSTALL_WANDB}",
            job_fix=f"{INSTALL_WANDB} in the trainer's environment",
        )  # fmt: skip


def swanlab(seen: Mapping[str, Any]) -> str:
    """Return why this environment can't report to SwanLab, with the fix; "" if it can, or nobody looked.

    Of jobs that report there alone: for all others a box without that package is as good as any.
    """
    if "swanlab" not in seen:
        return ""
    version = str(seen["swanlab"] or "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= SWANLAB:
        return ""
    has = f"has swanlab {version}, which does not go on with a run as 0.10 does" if version else "has no swanlab"
    return f"swanlab package: the trainer's environment {has}. Fix: {INSTALL_SWANLAB} in the trainer's environment"


def _fatal(seen: Mapping[str, Any], repair: str) -> Finding | None:
    """Return the fault that keeps every job from this environment."""
    others = _foreign(seen)
    broken = bool(seen.get("error") or seen.get("train_error") or not seen.get("torch"))
    if "lerobot" in (seen.get("foreign") or {}) or (others and broken):
        # Whatever fails then, the installed packages are not to blame for it.
        error = seen.get("error") or seen.get("train_error") or seen.get("torch_error") or ""
        detail = f"{others}, not the installed LeRobot {seen.get('lerobot')}" + (f" ({error})" if error else "")
        return Finding(subject="trainer", detail=detail, prevents=Need.TRAINER, fix=TAKE_OUT, job_fix=TAKE_OUT)
    if error := seen.get("error"):
        detail, fix = str(error), CREATE_ENVIRONMENT
    elif not seen.get("lerobot"):
        detail, fix = "LeRobot is not installed", CREATE_ENVIRONMENT
    elif not seen.get("torch"):
        detail, fix = f"torch can't be imported ({seen.get('torch_error')})", repair
    elif error := seen.get("train_error"):
        why = "; ".join([str(error), *_unmet(seen)])
        detail, fix = f"LeRobot's train script can't be imported ({why})", repair
    else:
        return None
    return Finding(subject="trainer", detail=detail, prevents=Need.TRAINER, fix=fix)


def _foreign(seen: Mapping[str, Any]) -> str:
    """Return which packages PYTHONPATH has in the place of installed ones; "" for none."""
    found: Mapping[str, str] = seen.get("foreign") or {}
    named = ", ".join(f"{name} from {place}" for name, place in list(found.items())[:3])
    return f"PYTHONPATH makes it import {named}" if named else ""


def cuda(seen: Mapping[str, Any], python: str) -> Finding | None:
    """Return why torch cannot use the GPUs that the driver shows; None if it can, or if torch is missing."""
    torch = seen.get("torch")
    if not torch:
        return None
    if not seen.get("cuda"):
        built = f"built for CUDA {seen['built']}" if seen.get("built") else "built without CUDA"
        detail = f"torch {torch} ({built}) can't use the GPU ({seen.get('cuda_error') or 'it sees none'})"
    elif unknown := [f"{card['name']} ({card['arch']})" for card in seen.get("cards", ()) if not card["fits"]]:
        detail = f"torch {torch} has no kernels for {', '.join(unknown)}"
    else:
        return None
    fix = f"{python} -m {INSTALL_TORCH}"
    return Finding(
        subject="cuda", detail=detail, prevents=Need.GPU, fix=fix, job_fix="a newer torch or GPU driver on the box"
    )


def decoder(seen: Mapping[str, Any], backend: str = "") -> Finding | None:
    """Return why this video decoder gives no frame; None if it does. "" is the one that LeRobot takes by default."""
    decoders: Mapping[str, str] = seen.get("decoders") or {}
    if not (error := decoders.get(backend)):
        return None
    working = next((name for name, wrong in decoders.items() if name and name != backend and not wrong), "")
    name = backend or "LeRobot's default video decoder"
    install = f"install ffmpeg in the trainer's environment: {INSTALL_FFMPEG}"
    return Finding(
        subject="decoder",
        detail=f"{name} gives no frame here ({error.split('. ')[0][:120]})",
        prevents=Need.VIDEO,
        fix=f"{INSTALL_FFMPEG}, or train.dataset.video_backend: {working or 'pyav'} in the job file",
        job_fix=f"write train.dataset.video_backend: {working}, or {install}" if working else install,
    )


def memory(limit_mib: int | None) -> Iterator[Finding]:
    """Yield what a container's memory limit is too small for, worst first; None is no limit."""
    if limit_mib is None:
        return
    limit = f"{limit_mib / 1024:.1f} GiB"
    fix = "rent a container with more memory"
    if limit_mib <= SMALL_MEMORY_MIB:
        detail = f"{limit} in all: this container was started without its GPU (无卡模式)"
        yield Finding(subject="memory", detail=detail, prevents=Need.GPU, fix=MISSING_GPU_FIX, job_fix=MISSING_GPU_FIX)
    if limit_mib < PI0_MEMORY_MIB:
        detail = f"this container may use {limit}; loading the base weights of pi0 takes {PI0_MEMORY_MIB // 1024} GiB"
        yield Finding(subject="memory", detail=detail, prevents=Need.PI0, fix=fix, job_fix=fix)
    elif limit_mib < COMFORTABLE_MEMORY_MIB:
        detail = (
            f"this container may use {limit}; pi0 with its optimizer state needs up to "
            f"{COMFORTABLE_MEMORY_MIB // 1024} GiB while it loads"
        )
        yield Finding(subject="memory", detail=detail, prevents=None, fix=fix)


def _unmet(seen: Mapping[str, Any]) -> list[str]:
    return [str(text) for text in seen.get("unmet") or ()]


def _has_pi0_python(seen: Mapping[str, Any]) -> bool:
    return tuple(int(part) for part in str(seen.get("python", "0")).split(".")[:2]) >= PI0_PYTHON
