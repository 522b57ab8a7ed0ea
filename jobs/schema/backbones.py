"""Repositories that a policy or reward model reads by itself, besides what the job starts from: one table.

Read from LeRobot 0.6.1 (every from_pretrained, snapshot_download and hf_hub_download of its policies and rewards); what
only these policies have in 0.4 and 0.5 is the same. LeRobot finds them by name, through `refs/main` of the Hub's cache.
What is loaded with trust_remote_code stands in safety/configs.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pi0q.jobs.schema import lerobot_tables, trained_model
from pi0q.jobs.schema.value_types import Value

#: Configuration, tokenizer and processor.
WORDS = ("*.json", "*.txt", "*.model", "*.jinja")
#: Those and the weights; a pickle is read where there are no safetensors, as tensors alone.
WEIGHTS = (*WORDS, "*.safetensors", "pytorch_model*.bin")
_WAN = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
_NEWEST = [*lerobot_tables.RELEASES][-1]

Settings = Callable[[str], Value]


class Backbone(NamedTuple):
    """One repository, or the part of it that is read."""

    repo: str
    #: Files that match one of these are read; None: all.
    patterns: tuple[str, ...] | None
    #: Branch, tag or commit that the file asks for.
    revision: str | None = None
    #: Whether LeRobot reads it with classes of its own: code that its files name is not run then.
    own_classes: bool = False


class _Part(NamedTuple):
    """One line of the table."""

    #: The setting that names the repository.
    flag: str
    #: Where LeRobot has no default of it, or no such setting.
    default: str = ""
    patterns: tuple[str, ...] | None = WEIGHTS
    #: Read in full only where this holds, given the settings; else no more than WORDS.
    whole: Callable[[Settings], object] = lambda _: True
    #: Read at all.
    read: Callable[[Settings], object] = lambda _: True
    revision: str = ""
    own_classes: bool = False


_PARTS: dict[str, tuple[_Part, ...]] = {
    "eo1": (_Part("vlm_base", whole=lambda of: not of("pretrained_path")),),
    "evo1": (_Part("vlm_model_name"),),
    "fastwam": (
        _Part("text_encoder_model_id", patterns=("text_encoder/*",), read=lambda of: of("load_text_encoder")),
        _Part("", _WAN, patterns=("vae/*",)),
        _Part("tokenizer_model_id", patterns=WORDS),
    ),
    "groot": (_Part("base_model_path", "nvidia/GR00T-N1.7-3B", patterns=None, own_classes=True),),
    "lingbot_va": (_Part("wan_pretrained_path", patterns=("vae/*", "text_encoder/*", "tokenizer/*")),),
    "molmoact2": (
        _Part("checkpoint_path", revision="checkpoint_revision", own_classes=True),
        _Part("discrete_action_tokenizer", patterns=WORDS, own_classes=True),
    ),
    "multi_task_dit": (_Part("vision_encoder_name"), _Part("text_encoder_name")),
    "sarm": (_Part("", "openai/clip-vit-base-patch32"),),
    "smolvla": (_Part("vlm_model_name", whole=lambda of: of("load_vlm_weights")),),
    "vla_jepa": (_Part("qwen_model_name"), _Part("jepa_encoder_name", read=lambda of: of("enable_world_model"))),
    "wall_x": (_Part("pretrained_name_or_path", own_classes=True),),
    "xvla": (_Part("tokenizer_name", patterns=WORDS),),
}
#: Policies and reward models of which all is known that they read.
KNOWN = frozenset(
    {*_PARTS, "pi0", "pi05", "pi0_fast", "act", "diffusion", "tdmpc", "vqbet", "reward_classifier"}
)  # fmt: skip


def backbones(kind: str, train: Mapping[str, Value], lerobot: str, *, by_path: bool = False) -> tuple[Backbone, ...]:
    """Return what a policy or reward model of this kind reads; one entry a repository.

    Args:
        lerobot: The release that reads it; "" for the newest.
        by_path: Its settings are those of a base that nobody has seen yet: LeRobot's own are taken, and all is read.
    """
    of = _settings(kind, {} if by_path else train, lerobot)
    found: dict[str, Backbone] = {}
    for part in _PARTS.get(kind, ()):
        repo = str((of(part.flag) if part.flag else None) or part.default)
        if not repo or repo.startswith("/") or not (by_path or part.read(of)):
            continue
        patterns = part.patterns if by_path or part.whole(of) else WORDS
        revision = str((of(part.revision) if part.revision else None) or "") or None
        found[repo] = _joined(found.get(repo), Backbone(repo, patterns, revision, part.own_classes))
    return tuple(found.values())


def named(train: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the repositories that a job's own flags name."""
    section, kind = trained_model.section(train), trained_model.kind(train)
    flags = (f"{section}.{part.flag}" for part in _PARTS.get(kind, ()) if part.flag)
    return tuple(str(train[flag]) for flag in flags if train.get(flag))


def base(train: Mapping[str, Value]) -> str | None:
    """Return the base that LeRobot takes by itself where the file names none (fastwam); None for all others."""
    if trained_model.kind(train) != "fastwam" or train.get("policy.pretrained_path") or train.get("policy.use_peft"):
        return None
    found = _settings("fastwam", train, "")("base_model_id")
    return str(found) if found else None


def _joined(one: Backbone | None, other: Backbone) -> Backbone:
    if one is None:
        return other
    if one.patterns is None or other.patterns is None:
        return one._replace(patterns=None)
    return one._replace(patterns=tuple(dict.fromkeys((*one.patterns, *other.patterns))))


def _settings(kind: str, train: Mapping[str, Value], lerobot: str) -> Settings:
    """Return what looks up a setting: the file's value, else LeRobot's default."""
    table = lerobot_tables.table(lerobot_tables.line(lerobot) or _NEWEST)

    def of(name: str) -> Value:
        for section in ("policy", "reward_model"):
            if f"{section}.{name}" in train:
                return train[f"{section}.{name}"]
            if row := table.get(f"{section}.{name}", {}).get(kind):
                found: Value = json.loads(row.default or "null") if row.default != "?" else None
                return found
        return None

    return of
