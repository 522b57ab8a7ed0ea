"""From the flags of a `lerobot-train` command to a job file, with a line for whatever does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import yaml

from pi0q.jobs.errors import Fault, SpecError
from pi0q.jobs.importing import swanlab_flags
from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.variables import Word
from pi0q.jobs.job_file import nested
from pi0q.jobs.schema import flags, full_width
from pi0q.jobs.schema.value_types import Float, Text
from pi0q.jobs.spec import parse

#: Flags that change nothing about the training, by pattern: pi0q sets them, or they say where and how it ran.
LEFT_OUT: dict[str, str] = {
    "output_dir": "each run has its own directory on the box's data disk",
    "resume": "pi0q resumes from the newest checkpoint that verifies",
    "checkpoint_path": "pi0q sets it when it resumes",
    "wandb.run_id": "the job has one run for its whole life",
    "save_checkpoint": "a job always saves: without checkpoints it could not be resumed",
    "save_checkpoint_to_hub": "`checkpoints.copy_to: hf://owner/name` copies verified checkpoints to the Hub",
    "env": "evaluation in a simulator is no part of a job",
    "env.*": "evaluation in a simulator is no part of a job",
    "eval.*": "evaluation in a simulator is no part of a job",
    "eval_freq": "evaluation in a simulator is no part of a job",
    "env_eval_freq": "evaluation in a simulator is no part of a job",
    "job.*": "pi0q's boxes run it, no Hugging Face job",
    "*discover_packages_path": "a box imports no packages for a job; plug-ins of robots are not needed to train",
}
#: What an unknown value of these is replaced by: none of them changes what is learned.
_OF_THE_MACHINE = {
    "job_name": "the dataset's name takes its place",
    "num_workers": "LeRobot takes 4",
    "prefetch_factor": "LeRobot's own is taken",
}
#: What stands where bytes could not be decoded (importer.decode).
REPLACED = "\ufffd"
#: A value of Windows' command line.
_PERCENT = re.compile(r"%[A-Za-z_]\w*%")
#: Devices that are a place to run, not a setting of the training.
_DEVICE = re.compile(r"cuda:\d+|mps|xpu(:\d+)?|auto")
#: A password of the Hub or WandB, which no message may show.
_TOKEN = re.compile(r"\bhf_\w{8,}|\bwandb_v1_\w+|\b[0-9a-f]{40}\b")


@dataclass
class Settings:
    """The settings of a training on their way into a job file."""

    #: Values by dotted flag, as YAML has them.
    train: dict[str, Any] = field(default_factory=dict)
    #: Line of each flag.
    lines: dict[str, int] = field(default_factory=dict)
    gpus: int = 1
    #: accelerate's mixed precision; "" for none.
    precision: str = ""
    #: The keys `tracking` and `swanlab` of the job file.
    tracking: dict[str, Any] = field(default_factory=dict)
    #: Line on which the command begins.
    line: int = 1
    #: Flags that were given and have a fault already.
    faulty: set[str] = field(default_factory=set)


def why_left_out(name: str) -> str | None:
    """Why a flag of the training is left out; None where it belongs into the job file."""
    return next((why for pattern, why in LEFT_OUT.items() if fnmatchcase(name, pattern)), None)


def read_flags(words: list[Word], report: Report) -> dict[str, Word]:
    """Flag -> value of the trainer's words, as `--flag=value`, `--flag value` or `--flag`; the last of two counts."""
    given, rest = dict[str, Word](), list(words)
    while rest:
        word = rest.pop(0)
        if not word.text.startswith("--") or word.text == "--":
            _fault_of_word(word, report)
            continue
        name, equals, text = word.text[2:].partition("=")
        value = Word(text, word.line, word.unknown)
        if not equals:
            bare = not rest or (rest[0].text.startswith("--") and rest[0].known)
            value = Word("true", word.line) if bare else rest.pop(0)
        name = name.replace("-", "_")
        if name in given:
            report.note(word.line, f"--{name} is given twice: took the last, as lerobot-train does")
        given[name] = value
    return given


def _fault_of_word(word: Word, report: Report) -> None:
    """Say what is wrong with a word that is no flag."""
    shown = "a token" if _TOKEN.search(word.text) else f"`{word.text[:40]}`"
    if word.unknown:
        part = word.unknown[0]
        report.fault(word.line, f"{part.source}, {part.why}: write what it stands for")
        report.unset |= {part.unset: None for part in word.unknown if part.unset}
    elif word.text.strip() == "":
        report.fault(word.line, "an empty word: a blank behind the `\\` at the end of the line?")
    elif REPLACED in word.text:
        report.fault(word.line, "a word holds bytes that are no UTF-8 text: save the script as UTF-8")
    elif re.match("[\u2010-\u2015\u2212]", word.text):
        report.fault(word.line, f"{shown} begins with a dash that is no `-`: write --")
    elif re.fullmatch(r"-[A-Za-z].*", word.text, re.DOTALL):
        report.fault(word.line, f"{shown} is not a flag of lerobot-train: its flags begin with --")
    else:
        report.fault(word.line, f"{shown} is not a flag")


def settings_of(given: Mapping[str, Word], report: Report) -> Settings:
    """The settings that belong into the job file; notes and faults of the others."""
    found = Settings()
    on = "wandb.enable" in given and _value("wandb.enable", given["wandb.enable"].text) is True
    found.tracking = swanlab_flags.keys(given, wandb=on, report=report)
    for name, value in given.items():
        if swanlab_flags.is_one(name):
            continue
        if why := _why_left_out(name, value):
            report.note(value.line, f"left out --{name}: {why}")
            continue
        if name == "config_path":
            report.fault(
                value.line,
                f"--config_path={value.text} holds settings that are not in this file: "
                "import that file, or write them as flags",
            )
        elif value.unknown:
            part = value.unknown[0]
            shown = "" if part.source == value.text else f"has {part.source} in it, "
            shown = shown or f"is {part.source}, "
            report.fault(value.line, f"--{name} {shown}{part.why}: write its value")
            report.unset |= {part.unset: None for part in value.unknown if part.unset}
            found.faulty.add(name)
        elif percent := _PERCENT.search(value.text):
            report.fault(value.line, f"--{name} has {percent[0]} in it, a variable of Windows: write its value")
        elif flags.place(name) is None:
            report.fault(value.line, f"--{name} {full_width.advice(name) or flags.unknown(name)}")
        elif REPLACED in value.text:
            report.fault(value.line, f"--{name} holds bytes that are no UTF-8 text: save the script as UTF-8")
            found.faulty.add(name)
        else:
            found.train[name] = _value(name, value.text)
            found.lines[name] = value.line
    adjust(found, report)
    return found


def adjust(found: Settings, report: Report) -> None:
    """Change what a box reads in another way than the machine that the settings come from."""
    _relative_root(found, report)
    _device(found, report)


def _why_left_out(name: str, value: Word) -> str | None:
    if value.unknown and name in _OF_THE_MACHINE:
        return f"it holds {value.unknown[0].source}; {_OF_THE_MACHINE[name]}"
    return why_left_out(name)


def _relative_root(found: Settings, report: Report) -> None:
    root = found.train.get("dataset.root")
    if isinstance(root, str) and root and not root.startswith("/"):
        report.note(
            found.lines["dataset.root"],
            f"--dataset.root={root} is relative: on a box it is looked for below its PI0Q_HOME",
        )


def _device(found: Settings, report: Report) -> None:
    device = found.train.get("policy.device")
    if isinstance(device, str) and _DEVICE.fullmatch(device):
        report.note(found.lines["policy.device"], f"left out --policy.device={device}: pi0q chooses the GPU")
        del found.train["policy.device"]


def _value(name: str, text: str) -> Any:
    """As YAML has it; a text stays one."""
    kind = flags.FLAGS[name].kind if name in flags.FLAGS else None
    if isinstance(kind, Text):
        return None if text in ("null", "None") and kind.nullable else text
    try:
        if isinstance(kind, Float):
            return float(text)
        value = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return text
    return value if isinstance(value, (bool, int, float, list, dict)) or value is None else text


def write(settings: Settings, report: Report) -> str:
    """The job file; what its own check finds becomes faults on the lines that the values came from."""
    train = settings.train
    content: dict[str, Any] = {"name": _name(train)}
    if settings.gpus != 1:
        content["resources"] = {"gpus": settings.gpus}
    if settings.precision:
        content["launch"] = {"mixed_precision": settings.precision}
    content |= settings.tracking
    content["train"] = nested(train)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    try:
        parse(text, filename="job.yaml")
    except SpecError as error:
        for fault in error.faults:
            if fault.key.removeprefix("train.") in settings.faulty:
                continue
            report.fault(_line_of(fault, settings), _as_flag(fault))
    return text


def _line_of(fault: Fault, settings: Settings) -> int:
    name = fault.key.removeprefix("train.")
    inside = (line for flag, line in settings.lines.items() if flag == name or flag.startswith(f"{name}."))
    return next(inside, settings.line)


def _as_flag(fault: Fault) -> str:
    """The error with its key as the command line spells it."""
    section, _, flag = fault.key.partition(".")
    text = re.sub(r"\btrain\.(?=[a-z])", "--", fault.text)
    return f"--{flag} {text}" if section == "train" and flag else f"{fault.key} {fault.text}".lstrip()


def _name(train: Mapping[str, Any]) -> str:
    return str(train.get("job_name") or str(train.get("dataset.repo_id") or "job").rpartition("/")[2])
