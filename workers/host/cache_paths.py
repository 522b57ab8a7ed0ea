"""Where caches, tokens and temporary files of trainings lie on this box."""

from __future__ import annotations

from pathlib import Path

from pi0q.queue.settings import Settings

#: Where `hf auth login` leaves the token when HF_HOME is not set.
LOGIN_TOKEN = Path("~/.cache/huggingface/token")
#: What a user told WandB for good.
WANDB_SETTINGS = Path("~/.config/wandb/settings")


def torch_home(settings: Settings) -> Path:
    """Return the directory in which torch.hub looks for weights."""
    return settings.home / "cache" / "torch"


def compiled(settings: Settings) -> Path:
    """Return the directory of kernels that travel: one directory a key, see workers/compiled."""
    return settings.home / "cache" / "compiled"


def compiled_name(directory: Path) -> str:
    """Return the name of the kernels of one key, for `pi0q cache` and their usage lock."""
    return f"compiled-{directory.name[:12]}"


def kernel_caches(root: Path) -> dict[str, str]:
    """Return the variables of the caches of compiled kernels below a directory."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"), "TRITON_CACHE_DIR": str(root / "triton")}


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
        **kernel_caches(root),
        # Weights that torchvision fetches by itself.
        "TORCH_HOME": str(torch_home(settings)),
        "TMPDIR": str(settings.home / "tmp"),
    }
    if not WANDB_SETTINGS.expanduser().is_file():
        # Where its user chose settings there, they hold.
        env["WANDB_CONFIG_DIR"] = str(root / "wandb-config")
    token = LOGIN_TOKEN.expanduser()
    if token.is_file() and not (settings.hf_home / "token").exists():
        env["HF_TOKEN_PATH"] = str(token)
    return env
