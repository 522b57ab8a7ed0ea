"""Judges the files of a base, a checkpoint or a tokenizer before LeRobot reads them. Pure: the caller brings the bytes.

    needed(use, names) -> the files whose bytes matter -> judge(use, files, lerobot) -> Verdict

What LeRobot would import, execute or unpickle is found; what it never reads is ignored (a pickle beside
model.safetensors, Python files beside the weights).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pi0q.jobs.safety import configs, processors
from pi0q.jobs.safety.findings import Finding, Use, Verdict

#: Weights as LeRobot and PEFT read them, and the pickles that PEFT takes where there is none of these.
SAFETENSORS = ("model.safetensors", "adapter_model.safetensors")
_PICKLES = ("*.bin", "*.ckpt", "*.pkl", "*.pt", "*.pth")
_OF_POLICY = frozenset({Use.WEIGHTS, Use.POLICY, Use.CHECKPOINT})


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one directory or repository."""

    #: Paths of all of them, below the directory.
    names: frozenset[str]
    #: The bytes of those that `needed` names.
    contents: Mapping[str, bytes] = field(default_factory=dict)
    #: Hashes of Python files that may run (allowed_code.py).
    allowed_code: frozenset[str] = frozenset()


def needed(use: Use, names: Iterable[str]) -> tuple[str, ...]:
    """The files whose bytes `judge` wants to see."""
    return tuple(sorted(name for name in names if _judge_of(use, name) or (use is Use.CODE and _is_code(name))))


def judge(use: Use, files: Files, lerobot: str) -> Verdict:
    """What LeRobot of this version would run out of these files."""
    verdict = Verdict()
    for name in needed(use, files.names):
        if name not in files.contents:
            verdict |= _found(name, "was not read")
        elif by := _judge_of(use, name):
            verdict |= by(name, files.contents[name], lerobot)
        elif (digest := hashlib.sha256(files.contents[name]).hexdigest()) not in files.allowed_code:
            verdict |= _found(name, f"is Python code that is not on the list in PI0Q_ALLOW_CODE (SHA-256 {digest})")
    if use in _OF_POLICY and not files.names.intersection(SAFETENSORS):
        pickles = sorted(name for name in files.names if "/" not in name and _matches(name, _PICKLES))
        for name in pickles:
            verdict |= _found(name, "is a pickle, which runs code when it is read, and there is no *.safetensors file")
    return verdict


_Judge = Callable[[str, bytes, str], Verdict]


def _judge_of(use: Use, name: str) -> _Judge | None:
    """Who judges this file, read for that; None if LeRobot never reads it, or reads no more than numbers."""
    if use is Use.NUMBERS:
        return _backbone_alone if name == "config.json" else None
    if use in (Use.TOKENIZER, Use.CODE):
        return _auto_map(code=use is Use.CODE) if name in configs.AUTO_MAPS else None
    if name in processors.FILES:
        return processors.judge_processor
    if name == "adapter_config.json":
        return _adapter
    if name == "config.json":
        return configs.judge_config if use is Use.POLICY else _auto_map(code=False)
    if name == "train_config.json" and use is Use.CHECKPOINT:
        return configs.judge_train_config
    return None


def _auto_map(*, code: bool) -> _Judge:
    return lambda name, data, _: configs.judge_auto_map(name, data, code=code)


def _backbone_alone(name: str, data: bytes, _: str) -> Verdict:
    return configs.judge_backbone(name, data)


def _adapter(name: str, data: bytes, _: str) -> Verdict:
    return configs.judge_adapter(name, data)


def _is_code(name: str) -> bool:
    return name.endswith(".py")


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _found(name: str, what: str) -> Verdict:
    return Verdict(findings=(Finding(file=name, what=what),))
