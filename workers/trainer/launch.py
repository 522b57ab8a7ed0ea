"""Command line and environment of the trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0q.jobs import command, postrun, tracking
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.record import Saved
from pi0q.jobs.spec import Spec
from pi0q.queue.settings import Settings
from pi0q.workers.host import cache_paths, process_tree
from pi0q.workers.host.cache_paths import caches
from pi0q.workers.hub import requirements
from pi0q.workers.network import routes
from pi0q.workers.runs.run_context import RunContext
from pi0q.workers.storage import inventory
from pi0q.workers.trainer import safety_check
from pi0q.workers.trainer.local_datasets import local_root

HOOK = Path(__file__).with_name("pi0q_trainer")


@dataclass(frozen=True, kw_only=True)
class TrainerCommand:
    """How one trainer is started."""

    argv: Sequence[str]
    #: Its whole environment, but for what tells several ranks apart (ranks.py).
    env: Mapping[str, str]
    #: How many processes train together, one for each GPU.
    ranks: int = 1

    @property
    def gpus(self) -> list[str]:
        """UUIDs of the GPUs that the process sees."""
        return [uuid for uuid in self.env.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]


def trainer(context: RunContext, resume: Saved | None, cache_env: Mapping[str, str]) -> TrainerCommand:
    """Return how the trainer is started, fresh or from a checkpoint.

    `cache_env`: where the trainer finds what was downloaded. Raises Stop where what the trainer would read holds code
    that it would run.
    """
    request, record, spec, settings = context.request, context.record, context.spec, context.settings
    safety_check.refuse_unsafe(spec, settings, request.lerobot, resume)
    directory, built = context.directory, _command(context, resume)
    marks = {
        process_tree.MARK: request.job_id,
        process_tree.MARK_EPOCH: str(request.epoch),
        "PI0Q_EVENTS": str(directory.pipe),
        "PI0Q_PARENT": str(os.getpid()),
        "PI0Q_LEASE": str(directory.lease),
        "PI0Q_CARD": str(directory.card) if postrun.push_to(spec) else "",
        "PI0Q_SAVE_EVERY_S": str(spec.checkpoints.every_seconds or ""),
        "PI0Q_SAVE_COST_S": str(record.save_seconds or ""),
        **_held_out(spec),
        **_swanlab(context),
        # An adapter's checkpoint names where its base lay on the box that saved it.
        "PI0Q_ADAPTER_BASE": policy_sizes.adapted_base(spec) if resume else "",
    }
    places = requirements.talks_to(spec)
    base = without_unneeded_tokens(routes.environment(places, os.environ, settings), places)
    env = build(base, settings, gpus=record.gpus, command={**built.env, **cache_env}, marks=marks)
    # Kernels that travel lie apart from those of other jobs.
    env |= {name: cache_env[name] for name in cache_paths.kernel_caches(settings.home) if name in cache_env}
    if "files" not in places:
        env.pop("HF_TOKEN_PATH", None)
    make_directories(env)
    inventory.hold_derived(settings, compiles=bool(spec.train.get("policy.compile_model")))
    return TrainerCommand(argv=[request.python, str(HOOK), *built.argv[1:]], env=env, ranks=max(1, len(record.gpus)))


def _held_out(spec: Spec) -> dict[str, str]:
    """Return what the hook is told of `checkpoints.best`; a rehearsal is too short for an evaluation."""
    if not spec.checkpoints.best or spec.rehearsal:
        return {}
    return {"PI0Q_BEST": spec.checkpoints.best, "PI0Q_PATIENCE": str(spec.checkpoints.patience or "")}


def _swanlab(context: RunContext) -> dict[str, str]:
    """Return what the hook is told of the job's run in SwanLab, which it writes to the disk alone."""
    spec = context.spec
    if not spec.tracking.swanlab:
        return {}
    told = {
        "id": tracking.run_id(str(context.record.wandb_run_id)),
        "project": tracking.project(spec.tracking, spec.train),
        "workspace": spec.tracking.workspace,
        "name": str(spec.train.get("job_name") or spec.name),
        "dir": str(context.directory.swanlab),
    }
    return {"PI0Q_SWANLAB": json.dumps(told)}


def _command(context: RunContext, resume: Saved | None) -> command.Command:
    spec, root = context.spec, local_root(context.spec.train, context.settings)
    shared: dict[str, Any] = {
        "lerobot": context.request.lerobot,
        "output_dir": str(context.directory.output),
        "run_id": str(context.record.wandb_run_id),
        "dataset_root": str(root) if root else None,
    }
    if resume:
        return command.resumed(spec, checkpoint=resume.path, **shared)
    return command.fresh(spec, **shared)


#: Variables that hold the Hub's token and WandB's key.
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
WANDB_KEYS = ("WANDB_API_KEY",)
#: Dropped: the queue's address and password, what makes lerobot-train refuse to start, and SwanLab's key and settings:
#: the box sends its run, not the trainer. ModelScope's token is for downloads, of which a trainer makes none there.
DROPPED = (
    *("PI0Q_REDIS_URL", "ACCELERATE_", "FSDP_", "CELERY_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "SWANLAB_"),
    *("LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "TORCHELASTIC_", "PI0Q_RANKS", "PI0Q_STORE"),
    "MODELSCOPE_API_TOKEN",
    # torch refuses to load anything where this is set beside what SAFE_LOADING sets.
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
)
#: torch.load makes tensors and nothing else, whatever its caller asks for: torchvision asks for any pickle.
SAFE_LOADING = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}


def build(
    base: Mapping[str, str],
    settings: Settings,
    *,
    gpus: Sequence[str],
    command: Mapping[str, str],
    marks: Mapping[str, str],
) -> dict[str, str]:
    """Return the trainer's environment; `command` comes from the job, `marks` from the runner."""
    env = {name: value for name, value in base.items() if not name.startswith(DROPPED)}
    env |= {"PYTHONUNBUFFERED": "1"} | SAFE_LOADING | dict(command) | caches(settings) | dict(marks)
    if not any(gpu.startswith("FAKE-") for gpu in gpus):
        # A job without a GPU must not see one that was promised to another.
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return env


def without_unneeded_tokens(env: Mapping[str, str], places: Sequence[str]) -> dict[str, str]:
    """Return the environment without the tokens of places that this job's trainer does not talk to.

    `places` as `requirements.talks_to` names them: `files` is the Hub, `wandb` WandB.
    """
    dropped = [*(HUB_TOKENS if "files" not in places else ()), *(WANDB_KEYS if "wandb" not in places else ())]
    return {name: value for name, value in env.items() if name not in dropped}


def make_directories(env: Mapping[str, str]) -> None:
    """Make the directories that tools expect to exist."""
    for name in ("HF_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "TMPDIR"):
        Path(env[name]).mkdir(parents=True, exist_ok=True)
