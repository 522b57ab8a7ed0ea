"""The trainer's command line, fresh or resumed, as plain data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pi0q.jobs import own_flags
from pi0q.jobs.schema import image_transforms, lerobot_tables, trackers, trained_model
from pi0q.jobs.schema.defaults import number
from pi0q.jobs.schema.image_transforms import TFS
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Spec

#: Steps of a rehearsal, and samples a step, at most.
REHEARSAL_STEPS = 20
REHEARSAL_BATCH = 2
#: Sections that the checkpoint brings, but for these flags of the policy or reward model, which may differ.
_FROM_CHECKPOINT = frozenset({"policy", "reward_model", "optimizer", "scheduler", "peft"})
_MODEL_ON_RESUME = frozenset(
    f"{section}.{name}"
    for section in ("policy", "reward_model")
    for name in (
        [
            "device",
            "push_to_hub",
            "repo_id",
            "private",
            "tags",
            "license",
            "compile_model",
            "compile_mode",
            "gradient_checkpointing",
        ]
    )
)
#: What the training starts from.
_STARTS = frozenset(
    f"{section}.{name}" for section in ("policy", "reward_model") for name in ("pretrained_path", "pretrained_revision")
)
#: Text that every parser on the way (argparse, YAML 1.1 on a fresh start, JSON on a resume) takes for itself.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:@+-]*(?<!:)")
_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "nan", "infinity"])
#: Flags that LeRobot reads off the command line itself, without any parser: never quoted.
_RAW = frozenset({"config_path", "policy.type", "policy.path", "reward_model.type"})


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run."""

    #: `lerobot-train` and one `--flag=value` an item; no shell sees it.
    argv: tuple[str, ...]
    #: To be added to the environment. Never a secret: the box adds tokens and its own paths.
    env: dict[str, str]


def fresh(
    spec: Spec,
    *,
    lerobot: str,
    output_dir: str,
    run_id: str,
    dataset_root: str | None = None,
) -> Command:
    """The command that starts from step 0.

    Args:
        lerobot: Version of LeRobot on the box, like "0.6.1".
        output_dir: A directory that doesn't exist yet: LeRobot refuses one that does.
        run_id: WandB run of this job, the same for all its attempts.
        dataset_root: The dataset's directory, where the file's relative `dataset.root` was resolved.
    """
    train = _settings(spec, lerobot=lerobot, output_dir=output_dir, run_id=run_id, dataset_root=dataset_root)
    return Command(argv=_argv(train), env=_env(spec, train, lerobot))


def resumed(
    spec: Spec,
    *,
    checkpoint: str,
    lerobot: str,
    output_dir: str,
    run_id: str,
    dataset_root: str | None = None,
) -> Command:
    """The command that goes on from `checkpoint` (…/checkpoints/000010); other arguments as for `fresh`.

    The policy's shape, optimizer and schedule come from the checkpoint; steps, batch, data, reporting and
    device from the file. LeRobot would otherwise write to the old output directory, even that of another box.
    """
    train = _settings(spec, lerobot=lerobot, output_dir=output_dir, run_id=run_id, dataset_root=dataset_root)
    kept = {
        name: value
        for name, value in train.items()
        if name in _MODEL_ON_RESUME or name.partition(".")[0] not in _FROM_CHECKPOINT
    }
    kept.pop("use_policy_training_preset", None)
    if kept.get("wandb.enable"):
        # Else an attempt that had no network would keep all later ones offline: the checkpoint says so.
        kept.setdefault("wandb.mode", "online")
    start: dict[str, Value] = {
        # The file itself: LeRobot 0.4 fails on the directory.
        "config_path": f"{checkpoint.rstrip('/')}/pretrained_model/train_config.json",
        "resume": True,
    }
    return Command(argv=_argv(start | kept), env=_env(spec, train, lerobot))


def misfit(checkpoint_of: str, here: str, what: str = "its checkpoint") -> str:
    """Why LeRobot `here` can't go on from a checkpoint (`what`) of version `checkpoint_of`; empty if it can."""
    if not checkpoint_of or _line(checkpoint_of) == _line(here):
        return ""
    return f"LeRobot {here} here can't read the configuration in {what}, which {checkpoint_of} made"


def _line(version: str) -> str:
    """The releases among which LeRobot's configuration stays the same: a line with a table, else the release alone."""
    return lerobot_tables.line(version) or version


def _settings(spec: Spec, *, lerobot: str, output_dir: str, run_id: str, dataset_root: str | None) -> dict[str, Value]:
    """The file's flags in their order, then what pi0q adds."""
    train = _rehearsed(spec.train) if spec.rehearsal else dict(spec.train)
    train["output_dir"] = output_dir
    train.setdefault("job_name", spec.name)
    flags, _ = own_flags.precision(spec.mixed_precision, lerobot)
    train = trackers.passed(train, lerobot) | flags | own_flags.added(train, lerobot=lerobot, run_id=run_id)
    if isinstance(transforms := train.get(TFS), dict):
        train[TFS] = image_transforms.completed(transforms, lerobot)
    if dataset_root is not None:
        train["dataset.root"] = dataset_root
    return train


def _rehearsed(train: Mapping[str, Value]) -> dict[str, Value]:
    """The same job, small: caps are minima, and nothing is downloaded, compiled or pushed."""
    dropped = _STARTS | {"policy.use_peft", "rename_map", "sample_weighting.progress_path"}
    kept = {name: value for name, value in train.items() if name not in dropped and not name.startswith("peft.")}
    steps = min(number(train, "steps"), REHEARSAL_STEPS)
    kept |= {
        "steps": steps,
        "save_freq": min(number(train, "save_freq"), max(1, steps // 2)),
        "log_freq": 1,
        "batch_size": min(number(train, "batch_size"), REHEARSAL_BATCH),
        "num_workers": 0,
    }
    for name, off in (("policy.compile_model", False), ("policy.gradient_checkpointing", False)):
        if name in kept:
            kept[name] = off
    if kept.get("wandb.enable"):
        kept["wandb.mode"] = "offline"
    return kept


def _env(spec: Spec, train: Mapping[str, Value], lerobot: str) -> dict[str, str]:
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if not trained_model.on_cpu(train):
        # Data workers come one a core already; on the CPU the training itself wants the threads.
        env["OMP_NUM_THREADS"] = "1"
    env |= own_flags.precision(spec.mixed_precision, lerobot)[1]
    if spec.rehearsal:
        env["PI0Q_REHEARSAL"] = "1"
    return env


def _argv(train: Mapping[str, Value]) -> tuple[str, ...]:
    return (own_flags.PROGRAM, *(f"--{name}={_text(name, value)}" for name, value in train.items()))


def _text(name: str, value: Value) -> str:
    """A value as LeRobot's parser reads it back the same: it takes text for YAML, or for JSON on a resume."""
    if isinstance(value, str) and (name in _RAW or (_PLAIN.fullmatch(value) and value.lower() not in _WORDS)):
        return value
    return _json(value)


def _json(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_json(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {_json(of)}" for key, of in value.items()) + "}"
    text = json.dumps(value, ensure_ascii=False)
    # YAML 1.1 takes 1e-05 for text: it wants a point in the mantissa.
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text
