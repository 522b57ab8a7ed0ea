"""What a run needs of the Hub, and how its trainer gets the paths. Pure.

Both LeRobots are told directories, not revisions: asked by name, 0.4.4 never looks into the Hub's cache for a
dataset, and `from_pretrained` of pi0 drops its revision, then starts from random weights if it finds nothing.
Only tokenizers are found by name, through `refs/main` of the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pi0q.jobs import start_point
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.estimates.policy_sizes import PALIGEMMA as PALIGEMMA
from pi0q.jobs.safety.configs import code_repositories
from pi0q.jobs.schema import backbones, trained_model
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Spec

TOKENIZER_FILES = ("added_tokens.json", "config.json", "special_tokens_map.json", "tokenizer*")
#: Of a repository whose code LeRobot runs: that code, and what it reads.
CODE_FILES = ("*.json", "*.model", "*.py")
#: reward_classifier reads the weights of the repository that brings its code.
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """One repository, or a part of it, that a run needs."""

    #: "dataset", "base", "tokenizer", "code" (a repository whose own Python files run), "backbone" (what a policy reads
    #: besides) or "own backbone" (the same, read with LeRobot's own classes).
    kind: str
    #: owner/name.
    repo_id: str
    #: "dataset" or "model".
    repo_type: str
    #: Branch, tag or commit that the user asked for.
    revision: str | None = None
    #: Only files that match one of these; None: all.
    patterns: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Fetch:
        """Out of its fields, `dataclasses.asdict`, after a way through JSON."""
        return cls(**{**told, "patterns": tuple(told["patterns"]) if told["patterns"] else None})

    @property
    def pin(self) -> str:
        """Its key among the pins, and its path on the Hub: a dataset and a model may share a repo_id."""
        return f"datasets/{self.repo_id}" if self.repo_type == "dataset" else self.repo_id

    def takes(self, name: str) -> bool:
        """Whether a file of the repository is wanted; `*` crosses slashes, as in huggingface_hub."""
        return self.patterns is None or any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Return the wanted files among these: no pickle where the same weights lie there as safetensors."""
        taken = [name for name in names if self.takes(name)]
        doubled = self.patterns is not None and any(name.endswith(".safetensors") for name in taken)
        return [name for name in taken if not (doubled and name.endswith(".bin"))]

    def folder(self, hf_home: Path) -> Path:
        """Its directory in the cache, as huggingface_hub lays it out."""
        return hf_home / "hub" / f"{self.repo_type}s--{self.repo_id.replace('/', '--')}"

    def snapshot(self, hf_home: Path, sha: str) -> Path:
        """Return the directory of its files at one commit."""
        return self.folder(hf_home) / "snapshots" / sha


def wanted(spec: Spec, *, resuming: bool, lerobot: str = "") -> tuple[Fetch, ...]:
    """What the trainer of this job will read from the Hub, in the order in which it is fetched.

    `lerobot` is the version that will read it; "" for the newest.
    """
    train, fetches = spec.train, []
    if not train.get("dataset.root"):
        patterns = ("meta/*",) if train.get("dataset.streaming") else None
        revision = _text(train, "dataset.revision")
        name = str(train["dataset.repo_id"])
        fetches.append(Fetch(kind="dataset", repo_id=name, repo_type="dataset", revision=revision, patterns=patterns))
    base = policy_sizes.base(spec) or (None if spec.rehearsal else backbones.base(train))
    needed = not resuming or policy_sizes.adapted_base(spec)
    if base and needed and not _is_path(base) and not start_point.parse(base):
        revision = _text(train, f"{trained_model.section(train)}.pretrained_revision")
        fetches.append(Fetch(kind="base", repo_id=base, repo_type="model", revision=revision))
    tokenizer = policy_sizes.tokenizer(spec)
    if tokenizer and not _is_path(tokenizer):
        fetches.append(Fetch(kind="tokenizer", repo_id=tokenizer, repo_type="model", patterns=TOKENIZER_FILES))
    kind = trained_model.kind(train)
    code = code_repositories(kind, lerobot) - {tokenizer, PALIGEMMA}
    brought = (*CODE_FILES, *WEIGHT_FILES) if kind == "reward_classifier" else CODE_FILES
    fetches += [Fetch(kind="code", repo_id=name, repo_type="model", patterns=brought) for name in sorted(code)]
    return (*fetches, *_backbones(spec, lerobot))


def _backbones(spec: Spec, lerobot: str) -> Iterator[Fetch]:
    by_path = not trained_model.kind(spec.train)
    kind = policy_sizes.kind(spec) if policy_sizes.is_certain(spec) else ""
    for one in backbones.backbones(kind, spec.train, lerobot, by_path=by_path):
        yield Fetch(
            kind="own backbone" if one.own_classes else "backbone",
            repo_id=one.repo,
            repo_type="model",
            revision=one.revision,
            patterns=one.patterns,
        )


def at_home(spec: Spec, fetches: Iterable[Fetch], *, hf_home: Path, pins: Mapping[str, str]) -> Spec:
    """The same job, reading dataset and base from this box's cache; for every run of it, resumed ones too."""
    train = dict(spec.train)
    for fetch in fetches:
        place: Value = str(fetch.snapshot(hf_home, pins[fetch.pin]))
        if fetch.kind == "base":
            section = trained_model.section(train)
            train["policy.path" if train.get("policy.path") else f"{section}.pretrained_path"] = place
            train.pop(f"{section}.pretrained_revision", None)
        elif fetch.kind == "dataset" and fetch.patterns:
            train["dataset.revision"] = pins[fetch.pin]
        elif fetch.kind == "dataset":
            train["dataset.root"] = place
            train.pop("dataset.revision", None)
    return replace(spec, train=train)


def needs_network(spec: Spec) -> str | None:
    """Why the trainer must reach the Hub itself; None if the caches are all it needs."""
    train = spec.train
    if train.get("dataset.streaming") and not train.get("dataset.root"):
        return "dataset.streaming: the dataset is read over the network"
    if train.get("policy.use_peft"):
        return "policy.use_peft: the adapter names the model it belongs to"
    for progress in ("sample_weighting.progress_path", "rabc_progress_path"):
        if train.get(progress):
            return f"{progress}: the file is read from the Hub"
    if trained_model.kind(train) not in backbones.KNOWN:
        what = f"{trained_model.section(train)}.type {trained_model.kind(train) or 'of a path'}"
        return f"{what}: it may read more from the Hub than pi0q knows of"
    return None


def without_wandb(spec: Spec) -> Spec:
    """The same job with its WandB run kept on the box, where WandB would end it."""
    online = spec.train.get("wandb.enable") and spec.train.get("wandb.mode") in (None, "online")
    return replace(spec, train={**spec.train, "wandb.mode": "offline"}) if online else spec


def talks_to(spec: Spec) -> tuple[str, ...]:
    """The places outside that its trainer talks to, as `network.environment` names them."""
    why = needs_network(spec)
    hub = () if why is None else ("files",)
    online = spec.train.get("wandb.mode") in (None, "online") and not spec.rehearsal
    return (*hub, "wandb") if spec.train.get("wandb.enable") and online else hub


def offline_env(spec: Spec, *, hf_home: Path) -> dict[str, str]:
    """What the trainer's environment needs to find the caches, and, where they are enough, nothing else."""
    home = {
        "HF_HOME": str(hf_home),
        "HF_HUB_CACHE": str(hf_home / "hub"),
        "HF_LEROBOT_HOME": str(hf_home / "lerobot"),
    }
    return home if needs_network(spec) else {**home, "HF_HUB_OFFLINE": "1"}


def _text(train: Mapping[str, Value], key: str) -> str | None:
    value = train.get(key)
    return str(value) if value else None


def _is_path(text: str) -> bool:
    return text.startswith("/")
