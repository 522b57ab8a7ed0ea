"""A job file, checked whole: `parse` gives a `Spec` or every fault with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import cast

import yaml

from pi0q.jobs import flags
from pi0q.jobs.document import compose, node_of
from pi0q.jobs.errors import Fault, SpecError
from pi0q.jobs.flag import POLICIES
from pi0q.jobs.kinds import Bool, Choice, Int, Name, Place, Value
from pi0q.jobs.quantities import Size, Span
from pi0q.jobs.rules import Found, Rule, nearest, walk


class Priority(str, Enum):
    """How soon a job's turn comes."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"

    @property
    def step(self) -> int:
        """Celery's priority step on Redis; the lowest number is served first."""
        return {Priority.LOW: 9, Priority.NORMAL: 6, Priority.HIGH: 3, Priority.URGENT: 0}[self]

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the user says the job takes; None: estimated (see `needs`)."""

    #: GPUs of one box; 0 for a job on the CPU.
    gpus: int | None = None
    #: Free memory on each GPU, in MiB.
    vram_mib: int | None = None
    #: Free space on the box's data disk, in MiB.
    disk_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When checkpoints are made, how many stay, where copies go."""

    #: Seconds between two saves, besides `save_freq` in steps; None: by steps only.
    every_seconds: float | None = 1800.0
    #: Verified checkpoints kept on the box.
    keep: int = 2
    #: Directory on the box, or hf://owner/name, that gets a copy of each; None: no copies.
    copy_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One training to be done, as the user wrote it and nothing raw in it."""

    name: str
    priority: Priority = Priority.NORMAL
    resources: Resources = Resources()
    checkpoints: Checkpoints = Checkpoints()
    #: A few steps of a shrunk model, to see that everything else works.
    rehearsal: bool = False
    #: Whether such a rehearsal comes before the run itself: auto (before more than an hour), always or never.
    rehearse: str = "auto"
    #: lerobot-train's flags by dotted name, in file order.
    train: Mapping[str, Value]

    def to_json(self) -> dict[str, object]:
        """Plain values that JSON can hold, in the file's own form; `from_json` reads them back."""
        resources, checkpoints = self.resources, self.checkpoints
        # A box with an older pi0q does not know the key.
        preflight = {} if self.rehearse == "auto" else {"preflight": {"rehearse": self.rehearse}}
        return {
            "name": self.name,
            "priority": self.priority.value,
            "resources": {
                "gpus": resources.gpus,
                "vram": resources.vram_mib and f"{resources.vram_mib}MiB",
                "disk": resources.disk_mib and f"{resources.disk_mib}MiB",
            },
            "checkpoints": {
                "every": checkpoints.every_seconds and f"{checkpoints.every_seconds!r}s",
                "keep": checkpoints.keep,
                "copy_to": checkpoints.copy_to,
            },
            "rehearsal": self.rehearsal,
            **preflight,
            "train": dict(self.train),
        }

    @classmethod
    def from_json(cls, data: object) -> Spec:
        """The spec that `to_json` gave, held against the same rules again.

        Raises:
            SpecError: the record was altered, or comes from a pi0q with other rules.
        """
        node = node_of(data)
        if not isinstance(node, yaml.MappingNode):
            raise SpecError("record", [Fault(1, "is not a job")])
        return _read(node, filename="record")


#: Keys of a job file outside `train`.
RULES: tuple[Rule, ...] = (
    Rule("name", Name(), "What people call the job; train.job_name or the file's name if left out."),
    Rule(
        "priority",
        Choice(*(priority.value for priority in Priority)),
        "How soon its turn comes; normal if left out.",
    ),
    Rule("rehearsal", Bool(), "A few steps of a shrunk model with everything else real; false if left out."),
    Rule(
        "preflight.rehearse",
        Choice("auto", "always", "never"),
        "A rehearsal on the box before the run itself; auto if left out: before runs of more than an hour.",
    ),
    Rule("resources.gpus", Int(low=0, high=16, nullable=True), "GPUs of one box, 0 for the CPU; 1 if left out."),
    Rule(
        "resources.vram",
        Size(nullable=True),
        "Free memory a box must have on each GPU; estimated if left out.",
    ),
    Rule("resources.disk", Size(nullable=True), "Free disk a box must have; estimated if left out."),
    Rule("checkpoints.every", Span(nullable=True), "Time between saves, besides save_freq; 30min if left out."),
    Rule("checkpoints.keep", Int(low=1, high=1000), "Verified checkpoints kept on the box; 2 if left out."),
    Rule("checkpoints.copy_to", Place(hub=True, relative=False, nullable=True), "Where a copy of each goes."),
)
_ALL: dict[str, Rule] = {rule.key: rule for rule in RULES} | {
    f"train.{flag.name}": Rule(f"train.{flag.name}", flag.kind, flag.says) for flag in flags.FLAGS.values()
}


def parse(text: str | bytes, *, filename: str) -> Spec:
    """Reads a job file.

    Raises:
        SpecError: with every fault, each on its line.
    """
    root, faults = compose(text)
    if root is None:
        raise SpecError(filename, faults)
    return _read(root, filename=filename)


def _read(root: yaml.MappingNode, *, filename: str) -> Spec:
    found = walk(root, _ALL, _unknown)
    train = {key.removeprefix("train."): value for key, value in found.values.items() if key.startswith("train.")}
    name = found.values.get("name") or train.get("job_name") or _stem(filename, found)
    _check_train(train, found)
    _check_policy(train, found)
    _check_device(train, found)
    if found.faults:
        raise SpecError(filename, found.faults)
    return _build(str(name), train, found.values)


def _build(name: str, train: dict[str, Value], values: Mapping[str, Value]) -> Spec:
    every = cast("float | None", values.get("checkpoints.every", Checkpoints.every_seconds))
    return Spec(
        name=name,
        priority=Priority(str(values.get("priority") or "normal")),
        resources=Resources(
            gpus=cast("int | None", values.get("resources.gpus")),
            vram_mib=cast("int | None", values.get("resources.vram")),
            disk_mib=cast("int | None", values.get("resources.disk")),
        ),
        checkpoints=Checkpoints(
            every_seconds=every,
            keep=cast(int, values.get("checkpoints.keep", Checkpoints.keep)),
            copy_to=cast("str | None", values.get("checkpoints.copy_to")),
        ),
        rehearsal=bool(values.get("rehearsal", False)),
        rehearse=str(values.get("preflight.rehearse") or "auto"),
        train=train,
    )


def _unknown(key: str) -> str:
    section, _, name = key.partition(".")
    if section == "train" and name:
        return flags.unknown(name).replace("did you mean ", "did you mean train.")
    near = nearest(key, _ALL)
    denied = flags.denial(key)
    if denied:
        return denied
    if f"train.{key}" in _ALL:
        return f"belongs under `train`: it is a flag of lerobot-train (train.{key})"
    return "is not a key of a job file" + (f"; did you mean {near}?" if near else "")


def _stem(filename: str, found: Found) -> str:
    stem = PurePath(filename).stem or "job"
    fault = Name().fault(stem)
    if fault and "name" not in found.lines:
        found.tell("name", f"is missing and the file's own name {fault}; write `name: …`")
    return stem


def _check_train(train: Mapping[str, Value], found: Found) -> None:
    if "train" not in found.lines:
        found.tell("train", "is missing; it holds lerobot-train's flags (dataset, policy, steps …)")
        return
    if "train.dataset.repo_id" not in found.lines:
        found.tell("train.dataset.repo_id", "is missing; write the dataset as owner/name")
    if train.get("eval_steps") and not train.get("dataset.eval_split"):
        found.tell("train.eval_steps", "needs train.dataset.eval_split above 0: there is nothing held out to look at")
    own = [name for name in train if name.startswith(("optimizer.", "scheduler."))]
    if train.get("use_policy_training_preset", True):
        for name in own:
            found.tell(f"train.{name}", "has no effect unless train.use_policy_training_preset is false")
    elif not {"optimizer.type", "scheduler.type"} <= set(own):
        found.tell("train.use_policy_training_preset", "is false, so optimizer.type and scheduler.type are needed")


def _check_policy(train: Mapping[str, Value], found: Found) -> None:
    if "train" not in found.lines:
        return
    policy = train.get("policy.type")
    given = [key for key in ("policy.type", "policy.path") if f"train.{key}" in found.lines]
    if not given:
        found.tell("train.policy.type", f"is missing; write one of {', '.join(POLICIES)}, or policy.path")
    if len(given) == 2:
        found.tell("train.policy.path", "brings its own type; leave train.policy.type out")
    if "policy.path" in train and found.values.get("rehearsal"):
        found.tell("rehearsal", "needs train.policy.type: a policy given by path can't be shrunk")
    for name in train:
        wrong = flags.misfit(name, str(policy), flags.FLAGS[name].known)
        if wrong:
            found.tell(f"train.{name}", wrong)
    if train.get("policy.push_to_hub") and not train.get("policy.repo_id"):
        found.tell("train.policy.push_to_hub", "is true but train.policy.repo_id doesn't say where to: owner/name")
    chunk, actions = train.get("policy.chunk_size"), train.get("policy.n_action_steps")
    if isinstance(chunk, int) and isinstance(actions, int) and actions > chunk:
        found.tell("train.policy.n_action_steps", f"is {actions}, more than the {chunk} of train.policy.chunk_size")
    adapted = any(name.startswith("peft.") for name in train)
    if adapted and not (train.get("policy.pretrained_path") or train.get("policy.path")):
        found.tell("train.peft", "needs weights to adapt: set train.policy.pretrained_path")


def _check_device(train: Mapping[str, Value], found: Found) -> None:
    gpus, device = found.values.get("resources.gpus"), train.get("policy.device")
    if device == "cpu" and isinstance(gpus, int) and gpus > 0:
        found.tell("resources.gpus", f"is {gpus} but train.policy.device is cpu; write 0, or device: cuda")
    if device == "cuda" and gpus == 0:
        found.tell("resources.gpus", "is 0 but train.policy.device is cuda; write 1, or device: cpu")
    if device == "cpu" and found.values.get("resources.vram"):
        found.tell("resources.vram", "is asked for but train.policy.device is cpu; leave it out")
