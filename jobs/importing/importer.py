"""What `pi0q import` does with a text: a command line, a script, or the `train_config.json` of a checkpoint."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing import conversion, train_config
from pi0q.jobs.importing.environment import read_environment
from pi0q.jobs.importing.launchers import Launch, launch, take_config
from pi0q.jobs.importing.report import Remark, Report
from pi0q.jobs.importing.script import Script, read
from pi0q.jobs.importing.shell import Command
from pi0q.jobs.importing.training import NO_TRAINING, choose
from pi0q.jobs.importing.variables import Word

#: Largest file that is read, in bytes: a notebook holds its pictures.
MAX_BYTES = 8 * 1024 * 1024
#: Largest script, in characters: real ones have some thousands, and the parser needs the square of what is broken.
MAX_SCRIPT = 64 * 1024
_PYTHON_VALUE = re.compile(r"\{[A-Za-z_][\w.()\[\]'\"]*\}")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a text."""

    #: The job file; it is a valid one, or "" where there are faults.
    text: str
    #: What was left out or changed, and why.
    notes: tuple[Remark, ...]
    #: What is wrong, in order of line.
    faults: tuple[Remark, ...]
    #: Variables that the script needs and does not set.
    unset: tuple[str, ...] = ()


def decode(raw: bytes, name: str) -> str:
    """The text of a file's bytes. Raises UsageError where they are no text, or too many; `name` is the file's."""
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{name} is over {MAX_BYTES // 1024**2} MiB, more than a script has; nothing was written.")
    if raw.startswith(_UTF16):
        return raw.decode("utf-16", "replace")
    if b"\0" in raw:
        raise UsageError(f"{name} is not text; nothing was written. Give a script or a train_config.json.")
    text = raw.decode("utf-8-sig", "replace")
    if not text.strip():
        raise UsageError(f"{name} is empty; nothing was written. Give `lerobot-train --dataset.repo_id=…`.")
    return text


def _nothing(_: str) -> None:
    """No file lies beside a text that comes without a place."""


def import_text(
    text: str,
    *,
    name: str = "the command",
    line: int | None = None,
    values: Mapping[str, str] | None = None,
    beside: Callable[[str], str | None] = _nothing,
) -> Imported:
    """Make a job file of a script, a command line or a `train_config.json`.

    Args:
        name: That of the file, for messages.
        line: Picks the command that begins there.
        values: Variables that are set where the script runs.
        beside: Reads a file that the script names (accelerate's configuration); None where it is not there.

    Raises:
        UsageError: there is no training in it.
    """
    report = Report(name)
    content = train_config.load(text, name)
    if content is not None:
        notebook = train_config.of_notebook(content)
        if notebook is None:
            return _imported(train_config.settings_of(content, text, report), report)
        text = notebook
    if len(text) > MAX_SCRIPT:
        raise UsageError(f"{name} is over {MAX_SCRIPT // 1024} KiB, more than a script has; nothing was written.")
    script = read(text, report, values or {})
    training = choose(script, report, line=line)
    _tell_strays(training.launch.command, script, report)
    _tell_unreadable(training.launch, script, report)
    take_config(training.launch, beside)
    if script.notebook:
        _tell_python_variables(training.launch, report)
    used = set(re.findall(r"\$\{?(\w+)", text))
    return _imported(_settings(training.launch, used, report), report)


def import_words(words: Sequence[str], *, beside: Callable[[str], str | None] = _nothing) -> Imported:
    """Make a job file of a command that a shell has split into words already. Raises UsageError if it is none."""
    environment = dict[str, Word]()
    rest = list(words)
    while rest and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", rest[0], re.DOTALL)):
        environment[found[1]] = Word(found[2], 1)
        del rest[0]
    command = Command([Word(word, 1) for word in rest], 1, environment)
    started = launch(command) if rest else None
    if started is None:
        raise UsageError(NO_TRAINING.format(name="the command"))
    report = Report()
    take_config(started, beside)
    return _imported(_settings(started, set(), report), report)


def _settings(started: Launch, used: set[str], report: Report) -> conversion.Settings:
    for note in started.report.notes:
        report.note(note.line, note.text)
    for fault in started.report.faults:
        report.fault(fault.line, fault.text)
    report.unset |= started.report.unset
    given = conversion.read_flags(started.words, report)
    environment = started.command.environment | started.environment
    precision = read_environment(environment, given, used, report)
    settings = conversion.settings_of(given, report)
    settings.line, settings.gpus = started.command.line, started.processes
    settings.precision = started.precision or precision
    if settings.gpus > 1:
        report.note(
            settings.line,
            f"took {settings.gpus} processes over as resources.gpus: {settings.gpus}; batch_size stays that of one GPU",
        )
    return settings


def _imported(settings: conversion.Settings, report: Report) -> Imported:
    text = conversion.write(settings, report)
    return Imported(
        text="" if report.faults else text, notes=report.notes, faults=report.faults, unset=tuple(report.unset)
    )


def _tell_strays(command: Command, script: Script, report: Report) -> None:
    for stray in command.strays:
        report.fault(stray.line, f"`{stray.text}` is not part of the command: {_why_cut(script.lines, stray.line - 1)}")


def _tell_python_variables(started: Launch, report: Report) -> None:
    """`{name}` in a notebook's command is a value of its Python."""
    for word in started.words:
        if found := _PYTHON_VALUE.search(word.text):
            report.fault(word.line, f"{found[0]} is a value of the notebook's Python, which is not run: write it out")


def _why_cut(lines: Sequence[str], line: int) -> str:
    """Why a command ends on this line."""
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    if not text.strip():
        return f"line {line} is blank, which ends it"
    if text.lstrip().startswith("#"):
        return f"line {line} is a comment, which ends it: move the comment above the command"
    if re.search(r"\\[ \t]+$", text):
        return f"a blank follows the `\\` at the end of line {line}: delete it"
    if text.endswith("\\"):
        return f"the comment on line {line} takes the `\\` with it: move the comment above the command"
    return f"line {line} does not end with `\\`"


def _tell_unreadable(started: Launch, script: Script, report: Report) -> None:
    """Lines that are no shell are faults within the command, and notes elsewhere."""
    command = started.command
    last = max(word.line for word in command.words)
    for line in script.unreadable:
        if command.line <= line <= last + 1:
            report.fault(line, "can't be read as a shell reads it: a quote or bracket that is not closed?")
        else:
            report.note(line, "left out what stands here: it can't be read as a shell reads it")
