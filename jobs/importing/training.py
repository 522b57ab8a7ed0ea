"""Which of a script's commands is the training that is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.launchers import Launch, launch, mentions
from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.script import Script

JOB_FILE = (
    "{name} holds no lerobot-train; nothing was written. If it is a job file already, it needs no import.\n"
    "Fix: pi0q submit {name} --dry-run   (tells its faults and queues nothing)"
)
NO_TRAINING = "There is no lerobot-train in {name}; nothing was written. Give `lerobot-train --dataset.repo_id=…`."
_FRESH = re.compile(r"--(dataset\.repo_id|policy\.(type|path)|reward_model\.(type|path))(=.*)?", re.DOTALL)
_RESUME = re.compile(r"--resume(=(true|True|1|yes))?")


@dataclass(frozen=True)
class Training:
    """One start of LeRobot's trainer in a script."""

    launch: Launch

    @property
    def line(self) -> int:
        """Line on which its command begins."""
        return self.launch.command.line

    @property
    def resumes(self) -> bool:
        """Whether it continues a training that was begun before."""
        words = self.launch.words
        texts = [word.text for word in words]
        spaced = any(text == "--resume" and after == "false" for text, after in pairwise(texts))
        return any(_RESUME.fullmatch(text) for text in texts) and not spaced

    @property
    def fresh(self) -> bool:
        """Whether it says what to train on what, and from the start."""
        return not self.resumes and any(_FRESH.fullmatch(word.text) for word in self.launch.words)


def choose(script: Script, report: Report, *, line: int | None = None) -> Training:
    """The training of a script: the first that starts afresh, one plainly on its way before one in a branch.

    `line` picks the command that begins there. The others are named in notes. Raises UsageError where there is none.
    """
    found = [Training(started) for command in script.commands if (started := launch(command)) and started.words]
    if line is not None:
        chosen = next((training for training in found if training.line == line), None)
        if chosen is None:
            lines = ", ".join(str(training.line) for training in found)
            has = f"lerobot-train begins on line {lines}" if lines else f"there is no lerobot-train in {report.name}"
            raise UsageError(f"No lerobot-train begins on line {line}; nothing was written: {has}.")
    else:
        fresh = [training for training in found if training.fresh]
        plain = [training for training in fresh if not training.launch.command.where]
        left = [training for training in found if not training.resumes]
        candidates = plain or fresh or left
        if not candidates:
            raise _none(script, found, report)
        chosen = candidates[0]
    for other in found:
        if other is not chosen:
            report.note(other.line, f"left out the command here: {_about(other)}")
    if chosen.launch.command.where:
        report.note(chosen.line, f"took the command here, {chosen.launch.command.where}")
    return chosen


def _about(training: Training) -> str:
    if training.resumes:
        return "it continues a training (--resume), and pi0q continues by itself"
    return f"another training; take it by --line {training.line}"


def _none(script: Script, found: list[Training], report: Report) -> UsageError:
    """Say why there is no training to import, with lines."""
    if found:
        lines = " and ".join(str(training.line) for training in found)
        return UsageError(
            f"Line {lines} of {report.name} continues a training (--resume), and there is no other; nothing written.\n"
            "Fix: pi0q import --adopt DIR, on the box, goes on from its checkpoint; to begin anew with its settings:\n"
            "     pi0q import DIR/checkpoints/last/pretrained_model/train_config.json"
        )
    mentioned = (at for at, text in enumerate(script.lines, 1) if mentions(text) and not text.lstrip().startswith("#"))
    first = next(mentioned, None)
    if first and script.unreadable:
        return UsageError(
            f"Line {script.unreadable[0]} of {report.name} can't be read as a shell reads it; nothing was written.\n"
            "Fix: close the quote or bracket that is open there"
        )
    if first:
        return UsageError(
            f"Line {first} of {report.name} names lerobot-train, but starts it in no way that import knows; "
            "nothing was written.\nFix: write it as `lerobot-train --dataset.repo_id=…`"
        )
    if report.name.endswith((".yaml", ".yml")):
        return UsageError(JOB_FILE.format(name=report.name))
    return UsageError(NO_TRAINING.format(name=report.name))
