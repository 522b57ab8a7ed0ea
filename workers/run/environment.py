"""The trainer's environment: caches on the data disk, its GPUs, nothing that it has no business with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pi0q.queue.settings import Settings

#: Dropped: the queue's address and password, and what makes lerobot-train refuse to start.
DROPPED = ("PI0Q_REDIS_URL", "ACCELERATE_", "FSDP_", "CELERY_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
#: Where `hf auth login` leaves the token when HF_HOME is not set.
LOGIN_TOKEN = Path("~/.cache/huggingface/token")
#: What a user told WandB for good.
WANDB_SETTINGS = Path("~/.config/wandb/settings")


def caches(settings: Settings) -> dict[str, str]:
    """Every cache and temporary file on the data disk."""
    root = settings.home / "cache"
    env = {
        "HF_HOME": str(settings.hf_home),
        "HF_XET_CACHE": str(settings.hf_home / "xet"),
        "WANDB_CACHE_DIR": str(root / "wandb"),
        "WANDB_DATA_DIR": str(root / "wandb-data"),
        "WANDB_ARTIFACT_DIR": str(root / "wandb-artifacts"),
        # Compiled kernels: a restart with compile_model costs ten minutes of GPU without them.
        "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
        "TRITON_CACHE_DIR": str(root / "triton"),
        "TMPDIR": str(settings.home / "tmp"),
    }
    if not WANDB_SETTINGS.expanduser().is_file():
        # Where its user chose settings there, they hold.
        env["WANDB_CONFIG_DIR"] = str(root / "wandb-config")
    token = LOGIN_TOKEN.expanduser()
    if token.is_file() and not (settings.hf_home / "token").exists():
        env["HF_TOKEN_PATH"] = str(token)
    return env


def build(
    base: Mapping[str, str],
    settings: Settings,
    *,
    gpus: Sequence[str],
    command: Mapping[str, str],
    marks: Mapping[str, str],
) -> dict[str, str]:
    """What the trainer gets. `command` comes from the job, `marks` from the runner."""
    env = {name: value for name, value in base.items() if not name.startswith(DROPPED)}
    env |= {"PYTHONUNBUFFERED": "1"} | dict(command) | caches(settings) | dict(marks)
    if not any(gpu.startswith("FAKE-") for gpu in gpus):
        # A job without a GPU must not see one that was promised to another.
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return env


def make_directories(env: Mapping[str, str]) -> None:
    """Makes the directories that tools expect to exist."""
    for name in ("HF_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "TMPDIR"):
        Path(env[name]).mkdir(parents=True, exist_ok=True)
