"""A job file, checked whole: `parse` gives a `Spec` or every fault with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePath
from typing import cast

from pi0q.jobs import best_checkpoint, box_choice, tracking, train_checks
from pi0q.jobs.box_choice import BoxChoice
from pi0q.jobs.cost import Money
from pi0q.jobs.dependencies import NONE as NO_CONDITIONS
from pi0q.jobs.dependencies import Conditions
from pi0q.jobs.errors import Fault, SpecError
from pi0q.jobs.estimates.base_facts import BaseFacts
from pi0q.jobs.notice_kinds import OF_JOBS
from pi0q.jobs.schema import flags, tracker_names
from pi0q.jobs.schema.box_types import Amount, BoxPatterns, GpuNames
from pi0q.jobs.schema.nodes import MappingNode, node_of
from pi0q.jobs.schema.overrides import NO_LINE, Override, applied
from pi0q.jobs.schema.rules import Found, Rule, Rules, nearest, walk
from pi0q.jobs.schema.start_conditions import AfterJobs, StartTime
from pi0q.jobs.schema.sweep_space import SweepSpace
from pi0q.jobs.schema.units import Size, Span
from pi0q.jobs.schema.value_types import Bool, Choice, Int, ListOf, Name, PathType, Value
from pi0q.jobs.sweep import Sweep
from pi0q.jobs.tracking import Tracking


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
    #: Whether it runs on a card with other trainings that share theirs.
    share: bool = False
    #: The boxes that it may run on, by name and by the names of their GPUs.
    where: BoxChoice = box_choice.ANY


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When checkpoints are made, how many stay, where copies go."""

    #: Seconds between two saves, besides `save_freq` in steps; None: by steps only.
    every_seconds: float | None = 1800.0
    #: Verified checkpoints kept on the box.
    keep: int = 2
    #: Directory on the box, or hf://owner/name, that gets a copy of each; None: no copies.
    copy_to: str | None = None
    #: `eval_loss`: keep the checkpoint with the least loss on held-out episodes as well; None: no such checkpoint.
    best: str | None = None
    #: Evaluations without a better one after which the training ends; None: at its last step.
    patience: int | None = None


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
    #: Seconds after which it ends where no box gets the directory that it reads; None: it waits.
    input_seconds: float | None = None
    #: Seconds that it may train in all, over all its runs; None: to its last step.
    time_limit: float | None = None
    #: What it may cost over all its runs, by the prices of its boxes: then it saves and is held; None: any amount.
    budget: Money | None = None
    #: Mixed precision of accelerate, as `accelerate launch --mixed_precision` has it: bf16 or fp16; "" for none.
    mixed_precision: str = ""
    #: What its user is told by message, see notice_kinds.py; None: what the queue's settings say.
    notify_on: tuple[str, ...] | None = None
    #: Jobs and a time that it waits for before it enters the queue.
    conditions: Conditions = NO_CONDITIONS
    #: The keys that vary from trial to trial; None for a single job. `train` holds the values of the first trial.
    sweep: Sweep | None = None
    #: The experiment trackers that it reports to, and its settings of SwanLab.
    tracking: Tracking = tracking.NOT_CHOSEN
    #: lerobot-train's flags by dotted name, in file order.
    train: Mapping[str, Value]
    #: What was read of the weights that it starts from, for estimates; no part of the file, nor of the record's spec.
    base: BaseFacts | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, object]:
        """Plain values that JSON can hold, in the file's own form; `from_json` reads them back."""
        resources, checkpoints = self.resources, self.checkpoints
        # A box with an older pi0q does not know these keys.
        told = {} if self.rehearse == "auto" else {"rehearse": self.rehearse}
        waits = {} if self.input_seconds is None else {"wait_for_input": f"{self.input_seconds!r}s"}
        preflight = {"preflight": told | waits} if told or waits else {}
        share = {"share": True} if resources.share else {}
        kept = {name: value for name in ("best", "patience") if (value := getattr(checkpoints, name))}
        limit = {"time_limit": f"{self.time_limit!r}s"} if self.time_limit else {}
        limit |= {"budget": str(self.budget)} if self.budget else {}
        launch = {"launch": {"mixed_precision": self.mixed_precision}} if self.mixed_precision else {}
        notify = {} if self.notify_on is None else {"notify": {"on": list(self.notify_on)}}
        return {
            "name": self.name,
            "priority": self.priority.value,
            "resources": {
                "gpus": resources.gpus,
                "vram": resources.vram_mib and f"{resources.vram_mib}MiB",
                "disk": resources.disk_mib and f"{resources.disk_mib}MiB",
                **share,
                **resources.where.file_json(),
            },
            "checkpoints": {
                "every": checkpoints.every_seconds and f"{checkpoints.every_seconds!r}s",
                "keep": checkpoints.keep,
                "copy_to": checkpoints.copy_to,
                **kept,
            },
            "rehearsal": self.rehearsal,
            **preflight,
            **limit,
            **launch,
            **notify,
            **self.tracking.to_json(),
            **self.conditions.to_json(),
            **({"sweep": self.sweep.to_json()} if self.sweep else {}),
            "train": dict(self.train),
        }

    @classmethod
    def from_json(cls, data: object) -> Spec:
        """The spec that `to_json` gave, held against the same rules again.

        Raises:
            SpecError: the record was altered, or comes from a pi0q with other rules.
        """
        node = node_of(data)
        if not isinstance(node, MappingNode):
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
        "time_limit",
        Span(nullable=True),
        "How long it may train, over all its runs: then it saves and stops; to its last step if left out.",
    ),
    Rule(
        "budget",
        Amount(nullable=True),
        "What it may cost, over all its runs: then it saves and is held; any amount if left out.",
    ),
    Rule(
        "preflight.rehearse",
        Choice("auto", "always", "never"),
        "A rehearsal on the box before the run itself; auto if left out: before runs of more than an hour.",
    ),
    Rule(
        "preflight.wait_for_input",
        Span(nullable=True),
        "Time after which it fails where no box gets the dataset or weights that it names; it waits if left out.",
    ),
    Rule(
        "launch.mixed_precision",
        Choice("bf16", "fp16", nullable=True),
        "accelerate's mixed precision, for policies without a dtype of their own; none if left out.",
    ),
    Rule(
        "after",
        AfterJobs(),
        "Jobs after which it starts: `ok` after a success (also a plain list), `any` after any end.",
    ),
    Rule(
        "start_after",
        StartTime(nullable=True),
        "When it may start: a time, or a duration after the submit; at once if left out.",
    ),
    Rule(
        "sweep",
        SweepSpace(lambda: _all_rules()),
        "Keys that vary, and their values: one trial for each combination; none if left out.",
    ),
    Rule(
        "notify.on",
        ListOf(Choice(*OF_JOBS)),
        "What its user is told by message; the choice of the queue's settings if left out, [] for nothing.",
    ),
    Rule(
        "tracking",
        tracker_names.TrackerNames(),
        "Trackers that the run is reported to; WandB if left out and train.wandb.enable is true.",
    ),
    Rule("swanlab.project", tracker_names.PROJECT, "SwanLab project; WandB's project if left out, else lerobot."),
    Rule("swanlab.workspace", tracker_names.WORKSPACE, "SwanLab workspace; that of the box's key if left out."),
    Rule("swanlab.mode", Choice("online", "offline"), "`offline` keeps the run on the box; online if left out."),
    Rule("resources.gpus", Int(low=0, high=16, nullable=True), "GPUs of one box, 0 for the CPU; 1 if left out."),
    Rule(
        "resources.vram",
        Size(nullable=True),
        "Free memory a box must have on each GPU; estimated if left out.",
    ),
    Rule("resources.disk", Size(nullable=True), "Free disk a box must have; estimated if left out."),
    Rule(
        "resources.share",
        Bool(),
        "Run on a card with other trainings that say so too, as memory allows; one training a card if left out.",
    ),
    Rule("resources.box", BoxPatterns(), "Boxes that may take it, by name or pattern (h100-*); any if left out."),
    Rule("resources.not_box", BoxPatterns(), "Boxes that may not take it, by name or pattern; none if left out."),
    Rule("resources.gpu", GpuNames(nullable=True), "Kinds of GPU it may run on: H100|PRO 6000; any if left out."),
    Rule("checkpoints.every", Span(nullable=True), "Time between saves, besides save_freq; 30min if left out."),
    Rule("checkpoints.keep", Int(low=1, high=1000), "Verified checkpoints kept on the box; 2 if left out."),
    Rule("checkpoints.copy_to", PathType(hub=True, relative=False, nullable=True), "Where a copy of each goes."),
    Rule(
        "checkpoints.best",
        Choice("eval_loss", nullable=True),
        "Keep the checkpoint with the least loss on held-out episodes as well; none if left out.",
    ),
    Rule(
        "checkpoints.patience",
        Int(low=1, high=10_000, nullable=True),
        "Evaluations without a better loss after which the training ends; at its last step if left out.",
    ),
)
_RULES: dict[str, Rule] = {rule.key: rule for rule in RULES}


class _AllRules(Rules):
    """The rules of a job file; that of one of LeRobot's flags is made when the file has it."""

    def __iter__(self) -> Iterator[str]:
        yield from _RULES
        yield from (f"train.{name}" for name in flags.FLAGS)

    def __len__(self) -> int:
        return len(_RULES) + len(flags.FLAGS)

    def __contains__(self, key: object) -> bool:
        return key in _RULES or (isinstance(key, str) and key.startswith("train.") and key[6:] in flags.FLAGS)

    def has_section(self, section: str) -> bool:
        if section == "train" or any(key.startswith(f"{section}.") for key in _RULES):
            return True
        return section.startswith("train.") and flags.FLAGS.has_section(section[6:])

    def __getitem__(self, key: str) -> Rule:
        if key in _RULES:
            return _RULES[key]
        section, _, name = key.partition(".")
        if section != "train":
            raise KeyError(key)
        flag = flags.FLAGS[name]
        return Rule(key, flag.kind, flag.says)


_ALL = _AllRules()


def _all_rules() -> Rules:
    return _ALL


#: Keys that every `train_config.json` of LeRobot has.
_OF_A_CHECKPOINT = frozenset({"dataset", "policy", "output_dir", "resume"})


def parse(text: str | bytes, *, filename: str, overrides: Sequence[Override] = ()) -> Spec:
    """Read a job file.

    Args:
        overrides: Values of the command line that take the place of the file's.

    Raises:
        SpecError: with every fault, each on its line.
    """
    from pi0q.jobs.schema.yaml_nodes import compose  # PyYAML: who reads records needs none

    root, faults = compose(text)
    if root is None:
        raise SpecError(filename, faults)
    try:
        return _read(applied(root, overrides), filename=filename)
    except SpecError as error:
        keys = {key for key, _ in overrides}
        told = [replace(fault, line=NO_LINE) if fault.key in keys else fault for fault in error.faults]
        raise SpecError(filename, told) from None


def _with_first_trial(root: MappingNode) -> MappingNode:
    """Return the file with the values of a sweep's first trial; as it is where it has none, or one with faults."""
    sweep = next((value for key, value in root.value if key.value == "sweep"), None)
    if sweep is None:
        return root
    told = list[str]()
    found = Sweep.of(_RULES["sweep"].kind.read(sweep, lambda _, text: told.append(text)))
    if found is None or told:
        return root
    return applied(root, [(key, node_of(value)) for key, value in found.written(1).items()])


def _read(root: MappingNode, *, filename: str) -> Spec:
    root = _with_first_trial(root)
    found = walk(root, _ALL, _unknown)
    if "train" not in found.lines and found.lines.keys() >= _OF_A_CHECKPOINT:
        told = f"is LeRobot's own file, not a job: `pi0q import {filename} -o job.yaml` makes a job of it"
        raise SpecError(filename, [Fault(1, told)])
    train = {key.removeprefix("train."): value for key, value in found.values.items() if key.startswith("train.")}
    name = found.values.get("name") or train.get("job_name") or _stem(filename, found)
    train_checks.check_flags(train, found)
    train_checks.check_model(train, found)
    train_checks.check_start(train, found)
    train_checks.check_device(train, found)
    across = best_checkpoint.fault(train, found.values) | box_choice.fault(found.values)
    if not any(fault.key == "tracking" for fault in found.faults):
        across |= tracking.faults(train, found.values)
    for key, text in across.items():
        found.tell(key, text)
    if found.faults:
        raise SpecError(filename, found.faults)
    return _build(str(name), train, found.values)


def _build(name: str, train: dict[str, Value], values: Mapping[str, Value]) -> Spec:
    every = cast("float | None", values.get("checkpoints.every", Checkpoints.every_seconds))
    chosen = tracking.of_values(values)
    return Spec(
        name=name,
        priority=Priority(str(values.get("priority") or "normal")),
        resources=Resources(
            gpus=cast("int | None", values.get("resources.gpus")),
            vram_mib=cast("int | None", values.get("resources.vram")),
            disk_mib=cast("int | None", values.get("resources.disk")),
            share=bool(values.get("resources.share", False)),
            where=box_choice.of_values(values),
        ),
        checkpoints=Checkpoints(
            every_seconds=every,
            keep=cast(int, values.get("checkpoints.keep", Checkpoints.keep)),
            copy_to=cast("str | None", values.get("checkpoints.copy_to")),
            best=cast("str | None", values.get("checkpoints.best")),
            patience=cast("int | None", values.get("checkpoints.patience")),
        ),
        rehearsal=bool(values.get("rehearsal", False)),
        time_limit=cast("float | None", values.get("time_limit")),
        budget=Money.parse(str(values.get("budget") or "")),
        rehearse=str(values.get("preflight.rehearse") or "auto"),
        input_seconds=cast("float | None", values.get("preflight.wait_for_input")),
        conditions=Conditions.of(values.get("after"), values.get("start_after")),
        sweep=Sweep.of(values.get("sweep")),
        notify_on=_kinds(values.get("notify.on")),
        mixed_precision=str(values.get("launch.mixed_precision") or ""),
        tracking=chosen,
        train=tracking.with_choice(train, chosen),
    )


def _kinds(found: Value) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(map(str, found))) if isinstance(found, list) else None


def _unknown(key: str) -> str:
    section, _, name = key.partition(".")
    if section == "train" and name:
        return flags.unknown(name, prefix="train.")
    near = nearest(key, _ALL)
    denied = flags.denial(key)
    if denied and section != "env" and not (near and section == "swanlab"):
        return denied
    if f"train.{key}" in _ALL:
        return f"belongs under `train`: it is a flag of lerobot-train (train.{key})"
    if near:
        return f"is not a key of a job file; did you mean {near}?"
    keys = dict.fromkeys([*(rule.key.partition(".")[0] for rule in RULES), "train"])
    known = ", ".join(one.key for one in RULES if one.key.startswith(f"{section}.")) if name else ", ".join(keys)
    more = " (jobs set no variables of the environment)" if section == "env" else ""
    return f"is not a key of a job file{more}; the keys are {known}: pi0q submit --explain KEY"


def _stem(filename: str, found: Found) -> str:
    stem = PurePath(filename).stem or "job"
    fault = Name().fault(stem)
    if fault and "name" not in found.lines:
        found.tell("name", f"is missing and the file's own name {fault}; write `name: …`")
    return stem
