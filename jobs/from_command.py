"""A `lerobot-train` command line, or a shell script that has one, as a job file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pi0q.jobs import flags
from pi0q.jobs.errors import SpecError, UsageError
from pi0q.jobs.kinds import Float, Text
from pi0q.jobs.spec import parse

#: What starts a training: LeRobot's command, or its script in one of the places it has had.
TRAINER = re.compile(r"(.*[/.])?(lerobot-train|lerobot_train|train)(\.py)?")
#: What pi0q sets itself, so that a command line without it means the same.
OURS = frozenset(
    {"output_dir", "resume", "config_path", "checkpoint_path", "wandb.run_id", "eval_freq", "env_eval_freq"}
)
#: Ends a command in a shell.
_OPERATORS = frozenset("|&;<>()")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a command line."""

    #: The job file; it is a valid one.
    text: str
    #: What was left out, and why.
    notes: tuple[str, ...]


def job_file(command: str | Sequence[str]) -> Imported:
    """The job file of a command, given as a shell has it or split already. Raises UsageError with all its faults."""
    words = _words(command) if isinstance(command, str) else _after_trainer(command)
    if words is None:
        raise UsageError(
            "There is no lerobot-train in it; nothing was written. It wants `lerobot-train --dataset.repo_id=…`."
        )
    given, faults = _flags(words)
    notes = [f"left out --{name}: it {flags.denial(name)}" for name in given if name in OURS]
    if str(given.get("save_checkpoint")).lower() == "true":
        notes.append(f"left out --save_checkpoint: it {flags.denial('save_checkpoint')}")
        del given["save_checkpoint"]
    train = {name: _value(name, text) for name, text in given.items() if name not in OURS}
    faults += [f"--{name} {flags.unknown(name)}" for name in train if name not in flags.FLAGS]
    faults += [
        f"--{name} has a variable of the shell in it ({text}): write its value"
        for name, text in given.items()
        if "$" in text
    ]
    if faults:
        raise _refused(faults)
    text = yaml.safe_dump(
        {"name": _name(train), "train": _nested(train)}, sort_keys=False, allow_unicode=True, width=120
    )
    try:
        parse(text, filename="job.yaml")
    except SpecError as error:
        raise _refused([fault.text.replace("train.", "--", 1) for fault in error.faults]) from None
    return Imported(text=text, notes=tuple(notes))


def _refused(faults: Iterable[str]) -> UsageError:
    told = list(faults)
    count = "1 fault" if len(told) == 1 else f"{len(told)} faults"
    return UsageError("\n".join([f"The command has {count}; nothing was written.", *(f"  {fault}" for fault in told)]))


def _words(script: str) -> list[str] | None:
    """The words after the trainer's name, in the first of the script's commands that has it."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError as error:
            if TRAINER.search(line):
                raise UsageError(f"The command can't be read ({error}); nothing was written.") from None
            continue
        if (found := _after_trainer(words)) is not None:
            return _until_operator(found)
    return None


def _until_operator(words: Sequence[str]) -> list[str]:
    """The words of one command: up to a pipe, a redirection (with the number of what it redirects) or the like."""
    end = next((at for at, word in enumerate(words) if word and set(word) <= _OPERATORS), len(words))
    kept = list(words[:end])
    if words[end:] and words[end].startswith(">") and kept[-1:] in (["1"], ["2"]):
        its_value = len(kept) > 1 and kept[-2].startswith("--") and "=" not in kept[-2]
        kept = kept if its_value else kept[:-1]
    return kept


def _after_trainer(words: Sequence[str]) -> list[str] | None:
    at = next((at for at, word in enumerate(words) if TRAINER.fullmatch(word)), None)
    return None if at is None else list(words[at + 1 :])


def _flags(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Flag -> text, as `--flag=text`, `--flag text` or `--flag`; and what is none."""
    given: dict[str, str] = {}
    faults, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            faults.append(f"`{word}` is not a flag")
            continue
        name, equals, text = word[2:].partition("=")
        if not equals:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        given[name] = text
    return given, faults


def _value(name: str, text: str) -> Any:
    """As YAML has it; a text stays one."""
    kind = flags.FLAGS[name].kind if name in flags.FLAGS else None
    if isinstance(kind, Text):
        return None if text == "null" else text
    try:
        if isinstance(kind, Float):
            return float(text)
        value = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return text
    return value if isinstance(value, (bool, int, float, list, dict)) or value is None else text


def _nested(train: dict[str, Any]) -> dict[str, Any]:
    """Sections for dotted names, in the order of the command."""
    tree: dict[str, Any] = {}
    for name, value in train.items():
        *sections, last = name.split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return tree


def _name(train: dict[str, Any]) -> str:
    return str(train.get("job_name") or str(train.get("dataset.repo_id", "job")).rpartition("/")[2])
