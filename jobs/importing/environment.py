"""What a training's environment variables become in a job file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.variables import Word

_MODES = ("online", "offline", "disabled")
_TRUE = ("1", "true", "yes", "on")
_SECRET = re.compile(r"(.*_)?(TOKEN|API_KEY|PASSWORD|SECRET)", re.IGNORECASE)
#: Variables by which accelerate changes a training, where the value is another than this.
_ACCELERATE_DEFAULTS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_DYNAMO_BACKEND": "no",
    "ACCELERATE_USE_FSDP": "false",
    "ACCELERATE_USE_DEEPSPEED": "false",
    "ACCELERATE_USE_CPU": "false",
}
_WHY = {
    "CUDA_VISIBLE_DEVICES": "pi0q chooses the GPUs",
    "HF_ENDPOINT": "each box has its own way to the Hub",
    "HF_HOME": "each box has its own cache",
    "HF_HUB_CACHE": "each box has its own cache",
    "HF_LEROBOT_HOME": "each box has its own cache; of a dataset that lies only there say dataset.root",
    "HF_HUB_OFFLINE": "the box downloads what is missing",
    "TRANSFORMERS_OFFLINE": "the box downloads what is missing",
    "HF_DATASETS_OFFLINE": "the box downloads what is missing",
    "WANDB_PROJECT": "lerobot-train sets the project itself (--wandb.project)",
}


def read_environment(variables: Mapping[str, Word], given: dict[str, Word], used: set[str], report: Report) -> str:
    """Add to `given` what variables mean for the training; return accelerate's mixed precision ("" for none).

    Args:
        variables: Environment that the script gives the command.
        given: Flags of the command; one of these goes before a variable.
        used: Variables whose values stand in the command: of these nothing is told.
    """
    precision = ""
    for name, value in variables.items():
        if name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_ENTITY"):
            _wandb(name, value, given, report)
        elif name == "ACCELERATE_MIXED_PRECISION" and value.text in ("bf16", "fp16"):
            precision = value.text
        elif value.text.lower() != _ACCELERATE_DEFAULTS.get(name, value.text.lower()):
            report.fault(value.line, f"{name}={value.text} changes the training and has no place in a job file yet")
        elif name == "CUDA_VISIBLE_DEVICES" and value.known and value.text in ("", "-1"):
            _no_gpu(value, given, report)
        elif _SECRET.fullmatch(name):
            report.note(value.line, f"left out {name}: tokens live on the box, never in a job file")
        elif name not in used:
            why = _WHY.get(name, "the environment is the box's own")
            report.note(value.line, f"left out {name}: {why}")
    return precision


def _wandb(name: str, value: Word, given: dict[str, Word], report: Report) -> None:
    flag = "wandb.entity" if name == "WANDB_ENTITY" else "wandb.mode"
    text = value.text
    if name == "WANDB_DISABLED":
        if text.lower() not in _TRUE:
            return
        text = "disabled"
    elif name == "WANDB_MODE" and value.known:
        text = {"dryrun": "offline", "run": "online"}.get(text, text)
        if text not in _MODES:
            report.fault(value.line, f"WANDB_MODE must be online, offline or disabled, not `{text}`")
            return
    if flag in given:
        report.note(value.line, f"left out {name}: --{flag} says {given[flag].text}")
        return
    given[flag] = Word(text, value.line, value.unknown)
    report.note(value.line, f"took {name} over as {flag}: {text}")


def _no_gpu(value: Word, given: dict[str, Word], report: Report) -> None:
    device = given.get("policy.device")
    if device is None or device.text != "cpu":
        report.fault(value.line, "CUDA_VISIBLE_DEVICES hides every GPU: write --policy.device=cpu, or leave it out")
