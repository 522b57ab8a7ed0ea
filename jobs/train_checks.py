"""Checks of a job file's `train`: what its flags must be together, told beside the line of each fault. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pi0q.jobs.schema import backbone_weights, flags, image_transforms, trained_model
from pi0q.jobs.schema.image_transforms import TFS
from pi0q.jobs.schema.rules import Found
from pi0q.jobs.schema.value_types import Value


def check_flags(train: Mapping[str, Value], found: Found) -> None:
    """Tell of flags that are missing, or go against others."""
    if "train" not in found.lines:
        found.tell("train", "is missing; it holds lerobot-train's flags (dataset, policy, steps …)")
        return
    if "train.dataset.repo_id" not in found.lines:
        found.tell("train.dataset.repo_id", "is missing; write the dataset as owner/name")
    elif "/" not in str(train.get("dataset.repo_id")) and not train.get("dataset.root"):
        found.tell("train.dataset.repo_id", "names no owner: write owner/name, or set train.dataset.root")
    if train.get("eval_steps") and not train.get("dataset.eval_split"):
        found.tell("train.eval_steps", "needs train.dataset.eval_split above 0: there is nothing held out to look at")
    if wrong_weights := backbone_weights.fault(train):
        found.tell(f"train.{wrong_weights[0]}", wrong_weights[1])
    if isinstance(transforms := train.get(TFS), dict) and (wrong := image_transforms.fault(transforms)):
        found.tell(f"train.{TFS}", wrong)
    own = [name for name in train if name.startswith(("optimizer.", "scheduler."))]
    if train.get("use_policy_training_preset", True):
        for name in own:
            found.tell(f"train.{name}", "has no effect unless train.use_policy_training_preset is false")
    elif not {"optimizer.type", "scheduler.type"} <= set(own):
        found.tell("train.use_policy_training_preset", "is false, so optimizer.type and scheduler.type are needed")


def check_model(train: Mapping[str, Value], found: Found) -> None:
    """Tell of a model that is missing, named twice, or does not take the flags."""
    if "train" not in found.lines:
        return
    given = [key for key in ("policy.type", "policy.path", "reward_model.type") if f"train.{key}" in found.lines]
    if not given:
        names = ", ".join(flags.trained("policy"))
        found.tell("train.policy.type", f"is missing; write one of {names}, or policy.path, or reward_model.type")
    if {"policy.type", "policy.path"} <= set(given):
        found.tell("train.policy.path", "brings its own type; leave train.policy.type out")
    elif len(given) == 2:
        found.tell("train.reward_model.type", f"is given as well as train.{given[0]}; a job trains one of the two")
    if given == ["policy.path"] and found.values.get("rehearsal"):
        found.tell("rehearsal", "needs train.policy.type: a policy given by path can't be shrunk")
    for name, value in train.items():
        of = flags.chosen(train, name)
        wrong = flags.misfit(name, of)
        for text in [wrong] if wrong else flags.faults(name, value, of):
            found.tell(f"train.{name}", text)


def check_start(train: Mapping[str, Value], found: Found) -> None:
    """Hold against each other what it starts from, what it predicts and where it goes to."""
    for section in ("policy", "reward_model"):
        if train.get(f"{section}.push_to_hub") and not train.get(f"{section}.repo_id"):
            told = f"is true but train.{section}.repo_id doesn't say where to: owner/name"
            found.tell(f"train.{section}.push_to_hub", told)
    chunk, actions = train.get("policy.chunk_size"), train.get("policy.n_action_steps")
    if isinstance(chunk, int) and isinstance(actions, int) and actions > chunk:
        found.tell("train.policy.n_action_steps", f"is {actions}, more than the {chunk} of train.policy.chunk_size")
    adapted = any(name.startswith("peft.") for name in train)
    if adapted and not (train.get("policy.pretrained_path") or train.get("policy.path")):
        found.tell("train.peft", "needs weights to adapt: set train.policy.pretrained_path")
    elif adapted and train.get("reward_model.type"):
        found.tell("train.peft", "adapts policies; LeRobot trains a reward model whole")


def check_device(train: Mapping[str, Value], found: Found) -> None:
    """Hold the device against the GPUs that the job asks for."""
    gpus, device = found.values.get("resources.gpus"), trained_model.setting(train, "device")
    name = f"train.{trained_model.section(train)}.device"
    if device == "cpu" and isinstance(gpus, int) and gpus > 0:
        found.tell("resources.gpus", f"is {gpus} but {name} is cpu; write 0, or device: cuda")
    if device == "cuda" and gpus == 0:
        found.tell("resources.gpus", f"is 0 but {name} is cuda; write 1, or device: cpu")
    if device == "cpu" and found.values.get("resources.vram"):
        found.tell("resources.vram", f"is asked for but {name} is cpu; leave it out")
