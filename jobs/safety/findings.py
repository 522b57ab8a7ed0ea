"""What is wrong with the files of a model, as values; `describe` makes the sentence of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Use(str, Enum):
    """What a directory or repository is read for: LeRobot reads other files of it in each case."""

    #: `policy.pretrained_path`: weights and processors; the policy's settings come from the job.
    WEIGHTS = "weights"
    #: `policy.path`: its config.json as well.
    POLICY = "policy"
    #: A resume: the whole training configuration as well.
    CHECKPOINT = "checkpoint"
    #: A tokenizer, processor or frozen model that transformers loads.
    TOKENIZER = "tokenizer"
    #: A model that LeRobot reads with its own classes, whatever code its files name.
    NUMBERS = "numbers"
    #: A repository that LeRobot loads with trust_remote_code=True: its Python files run.
    CODE = "code"


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """One thing that LeRobot would import, execute or unpickle, or that nobody can judge."""

    #: Path below the directory.
    file: str
    #: Where in it, like "step 2"; "" for the file itself.
    where: str = ""
    #: What is wrong.
    what: str

    def __str__(self) -> str:
        return f"{self.file}{', ' * bool(self.where)}{self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found in the files of one directory."""

    findings: tuple[Finding, ...] = ()
    #: Repositories from which LeRobot will load code, or a tokenizer with leave to run its code: to be judged too.
    code_from: frozenset[str] = frozenset()

    def __or__(self, other: Verdict) -> Verdict:
        return Verdict(findings=self.findings + other.findings, code_from=self.code_from | other.code_from)


#: Findings that a message tells; the rest is counted.
TOLD = 3


def describe(source: str, findings: Iterable[Finding]) -> str:
    """The sentence for a user: `source` is what was looked at, like "mallory/act at 1234567"."""
    ordered = sorted(findings)
    told = "; ".join(_printable(str(finding)) for finding in ordered[:TOLD])
    more = f"; and {len(ordered) - TOLD} more" if len(ordered) > TOLD else ""
    return f"{source} would run code on the box, or can't be judged: {told}{more}"


def _printable(text: str) -> str:
    """Names come out of a stranger's file: no control characters, and no more than a line."""
    return "".join(char if char.isprintable() else "?" for char in text[:300])
