"""The trainer's command line, fresh or resumed, as plain data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pi0q.jobs import flags
from pi0q.jobs.kinds import Value
from pi0q.jobs.spec import Spec

#: Steps of a rehearsal, and samples a step, at most.
REHEARSAL_STEPS = 20
REHEARSAL_BATCH = 2
#: Policy flags that may differ from those a checkpoint was made with; the others come from the checkpoint.
_POLICY_ON_RESUME = frozenset(
    f"policy.{name}"
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
#: Text that every parser on the way (argparse, YAML 1.1 on a fresh start, JSON on a resume) takes for itself.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:@+-]*(?<!:)")
_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "nan", "infinity"])
#: Flags that LeRobot reads off the command line itself, without any parser: never quoted.
_RAW = frozenset({"config_path", "policy.type", "policy.path"})


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
    return Command(argv=_argv(train), env=_env(spec, train))


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
        if name in _POLICY_ON_RESUME or name.partition(".")[0] not in ("policy", "optimizer", "scheduler", "peft")
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
    return Command(argv=_argv(start | kept), env=_env(spec, train))


def misfit(checkpoint_of: str, here: str) -> str:
    """Why LeRobot `here` can't go on from a checkpoint that version `checkpoint_of` made; empty if it can."""
    if not checkpoint_of or flags.line(checkpoint_of) == flags.line(here):
        return ""
    return f"LeRobot {here} here can't read the configuration in its checkpoint, which {checkpoint_of} made"


def _settings(spec: Spec, *, lerobot: str, output_dir: str, run_id: str, dataset_root: str | None) -> dict[str, Value]:
    """The file's flags in their order, then what pi0q adds."""
    train = _rehearsed(spec.train) if spec.rehearsal else dict(spec.train)
    train["output_dir"] = output_dir
    train.setdefault("job_name", spec.name)
    if train.get("wandb.enable"):
        train["wandb.run_id"] = run_id
        # LeRobot would upload every checkpoint (7-14 GB of weights) from inside the training loop.
        train.setdefault("wandb.disable_artifact", True)
    # The box pushes when the training is over (workers/after/push.py): here a Hub that is away would fail the job.
    train["policy.push_to_hub"] = False
    train["eval_freq" if flags.line(lerobot) == "0.4" else "env_eval_freq"] = 0
    if dataset_root is not None:
        train["dataset.root"] = dataset_root
    return train


def _rehearsed(train: Mapping[str, Value]) -> dict[str, Value]:
    """The same job, small: caps are minima, and nothing is downloaded, compiled or pushed."""
    dropped = ("policy.pretrained_path", "policy.pretrained_revision", "policy.use_peft", "rename_map")
    kept = {name: value for name, value in train.items() if name not in dropped and not name.startswith("peft.")}
    steps = min(_int(train, "steps", 100_000), REHEARSAL_STEPS)
    kept |= {
        "steps": steps,
        "save_freq": min(_int(train, "save_freq", 20_000), max(1, steps // 2)),
        "log_freq": 1,
        "batch_size": min(_int(train, "batch_size", 8), REHEARSAL_BATCH),
        "num_workers": 0,
        "policy.push_to_hub": False,
    }
    for name, off in (("policy.compile_model", False), ("policy.gradient_checkpointing", False)):
        if name in kept:
            kept[name] = off
    if kept.get("wandb.enable"):
        kept["wandb.mode"] = "offline"
    return kept


def _env(spec: Spec, train: Mapping[str, Value]) -> dict[str, str]:
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if train.get("policy.device") != "cpu":
        # Data workers come one a core already; on the CPU the training itself wants the threads.
        env["OMP_NUM_THREADS"] = "1"
    if spec.rehearsal:
        env["PI0Q_REHEARSAL"] = "1"
    return env


def _argv(train: Mapping[str, Value]) -> tuple[str, ...]:
    return ("lerobot-train", *(f"--{name}={_text(name, value)}" for name, value in train.items()))


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


def _int(train: Mapping[str, Value], name: str, default: int) -> int:
    value = train.get(name)
    return value if isinstance(value, int) else default
