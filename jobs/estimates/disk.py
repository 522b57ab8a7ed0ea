"""What a job takes of a box's data disk, thing by thing: how much, where it goes, where the number is from. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pi0q.jobs import start_point
from pi0q.jobs.amounts import gib as gib
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.start_point import Reference

if TYPE_CHECKING:
    from pi0q.jobs.spec import Spec

MIB = 1024 * 1024
#: Logs, events, an offline WandB run, temporary files. MiB.
SPARE_MIB = 5 * 1024
#: Allowance for a dataset, with the tables that LeRobot makes of it, whose size nobody has told. MiB.
DATASET_MIB = 10 * 1024
#: Allowance for the kernels that `compile_model` leaves. MiB.
KERNELS_MIB = 2 * 1024
#: Of a thing that takes no space of its own where it lies already.
EVERYTHING_MIB = 1 << 40
#: The four files of PaliGemma's tokenizer. MiB.
TOKENIZER_MIB = 25
#: A rehearsal's model has 17 M parameters, 68 MB a checkpoint (measured); what it writes in all, and one of them. MiB.
REHEARSAL_MIB, REHEARSAL_CHECKPOINT_MIB = 2 * 1024, 68
#: What must stay free besides a save, in parts of it, and at the least, MiB.
MARGIN_PART, MARGIN_MIB = 10, 32
#: Files that a save makes, and what is written beside it.
SAVE_INODES = 200

#: Where things go: below the Hub's cache, PI0Q_HOME/cache, or the run's own directory.
HUB, CACHE, RUN = "hub", "cache", "run"
#: Where that is by default, on the box's data disk.
PLACES: Mapping[str, str] = {HUB: "PI0Q_HOME/huggingface", CACHE: "PI0Q_HOME/cache", RUN: "PI0Q_HOME/runs/JOB"}


@dataclass(frozen=True, kw_only=True)
class DiskItem:
    """One thing that a job puts on the disk."""

    #: base, backbone, dataset, tokenizer, kernels, checkpoints or spare.
    kind: str
    #: In words.
    what: str
    mib: int
    #: HUB, CACHE or RUN.
    place: str
    #: Where the number is from.
    why: str
    #: As a fetch has it among its pins; "" for what does not come from the Hub by name.
    pin: str = ""
    #: Of it on the box already, or not needed there.
    here_mib: int = 0

    @property
    def lacks_mib(self) -> int:
        """What is still to come."""
        return max(0, self.mib - self.here_mib)


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """All of it."""

    items: tuple[DiskItem, ...]
    #: One checkpoint, MiB.
    checkpoint_mib: int
    #: Whether that was measured, not reckoned.
    measured: bool = False
    #: What the file says it takes in all, MiB; None: the sum of the items.
    stated_mib: int | None = None
    #: What must be free at the least: a disk that ran full had less.
    at_least_mib: int = 0

    @property
    def mib(self) -> int:
        """On a box that has nothing of it."""
        return self.stated_mib if self.stated_mib is not None else self.reckoned_mib

    @property
    def lacks_mib(self) -> int:
        """What a box with all that is here must still have free."""
        # However much is here, the next save must fit.
        least = max(self.at_least_mib, with_margin(self.checkpoint_mib) if self.measured else 0)
        if self.stated_mib is None:
            return max(least, sum(item.lacks_mib for item in self.items))
        if self.at_least_mib and self.measured:
            # It filled a disk: what its file says was too little, all but the allowance for logs.
            least = max(least, sum(item.lacks_mib for item in self.items if item.kind != "spare"))
        return max(least, self.stated_mib - self.here_mib)

    @property
    def here_mib(self) -> int:
        """Of it on the box already."""
        return sum(min(item.mib, item.here_mib) for item in self.items)

    @property
    def reckoned_mib(self) -> int:
        """What it comes to thing by thing, whatever the file states."""
        return sum(item.mib for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """For a record, for `--json`."""
        items = [{**vars(item), "lacks_mib": item.lacks_mib} for item in self.items]
        return {"disk_mib": self.mib, "lacks_mib": self.lacks_mib, "stated": self.stated_mib is not None,
                "checkpoint_mib": self.checkpoint_mib, "measured": self.measured, "items": items}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SavedSoFar:
    """What is known of a job's checkpoints."""

    #: Bytes of one, as measured; None: estimated from parameters and format.
    bytes_each: int | None = None
    #: The job resumes from one, and so needs no base weights.
    resuming: bool = False
    #: Checkpoints that its user pinned, besides `checkpoints.keep`.
    pinned: int = 0


def plan(
    spec: Spec,
    *,
    sizes: Mapping[str, int] | None = None,
    saved: SavedSoFar | None = None,
    here: Mapping[str, int] | None = None,
    at_least_mib: int = 0,
) -> DiskPlan:
    """Return what the job takes of a data disk.

    Args:
        sizes: Bytes of repositories as the Hub states them, by pin (`owner/name`, `datasets/owner/name`).
        saved: Its checkpoints so far; None for a new job.
        here: MiB of each kind of thing that are on the box already.
        at_least_mib: What must be free in any case: the disk ran full with less.
    """
    known, present, saved = sizes or {}, dict(here or {}), saved or SavedSoFar()
    if spec.rehearsal:
        return _rehearsal(spec, known, present, at_least_mib)
    bytes_each = saved.bytes_each or policy_sizes.checkpoint_bytes(spec)
    items = [*_base(spec, known), *_dataset(spec, known), *_tokenizer(spec), *_kernels(spec)]
    items += [_checkpoints(spec, bytes_each, measured=bool(saved.bytes_each), pinned=saved.pinned), _SPARE]
    if saved.resuming and not policy_sizes.adapted_base(spec):
        present["base"] = sum(item.mib for item in items if item.kind == "base")
    return DiskPlan(
        items=tuple(_with(item, present.get(item.kind, 0)) for item in items),
        checkpoint_mib=_mib(bytes_each),
        measured=bool(saved.bytes_each),
        stated_mib=spec.resources.disk_mib,
        at_least_mib=at_least_mib,
    )


_SPARE = DiskItem(
    kind="spare", what="logs, offline WandB, temporary files", mib=SPARE_MIB, place=RUN, why="an allowance"
)


def _rehearsal(spec: Spec, known: Mapping[str, int], here: Mapping[str, int], at_least_mib: int) -> DiskPlan:
    """Its model is small and starts from nothing; dataset and tokenizer are the real ones."""
    own = DiskItem(kind="spare", what="checkpoints, logs", mib=REHEARSAL_MIB, place=RUN, why="a rehearsal's are small")
    items = tuple(_with(item, here.get(item.kind, 0)) for item in [*_dataset(spec, known), *_tokenizer(spec), own])
    stated = spec.resources.disk_mib
    total = sum(item.mib for item in items)
    return DiskPlan(
        items=items,
        checkpoint_mib=REHEARSAL_CHECKPOINT_MIB,
        stated_mib=min(stated, total) if stated is not None else None,
        at_least_mib=at_least_mib,
    )


def told(preflight: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Bytes of a job's repositories, by pin, as a box read them from the Hub; a record may hold anything."""
    sizes = {}
    for found in preflight.values():
        heard = found.get("sizes")
        for pin, size in heard.items() if isinstance(heard, Mapping) else ():
            if isinstance(size, int) and size >= 0:
                sizes[str(pin)] = size
    return sizes


def _base(spec: Spec, sizes: Mapping[str, int]) -> list[DiskItem]:
    found, sized, name = [], policy_sizes.of(spec), policy_sizes.base(spec)
    if name and (start := start_point.parse(name)):
        found.append(_start(spec, start))
    elif name and not name.startswith("/"):
        mib, why = _sized(name, sizes, sized.base, f"the usual size for {_type(spec)}")
        found.append(DiskItem(kind="base", what=f"base weights {name}", mib=mib, place=HUB, why=why, pin=name))
    if sized.backbone:
        why = f"the usual size for {_type(spec)}"
        mib = _mib(sized.backbone * 1e9)
        found.append(DiskItem(kind="backbone", what="its backbone's weights", mib=mib, place=HUB, why=why))
    return found


def _start(spec: Spec, start: Reference) -> DiskItem:
    """The weights that another job's checkpoint brings; they share their space with it where it lies on this disk."""
    mib = _mib(policy_sizes.model_bytes(spec))
    return DiskItem(kind="base", what=f"weights of {start}", mib=mib, place=RUN, why="the size of such a policy")


def _dataset(spec: Spec, sizes: Mapping[str, int]) -> list[DiskItem]:
    train = spec.train
    name = str(train.get("dataset.repo_id"))
    if train.get("dataset.root") or train.get("dataset.streaming"):
        return []
    pin = f"datasets/{name}"
    mib, why = _sized(pin, sizes, DATASET_MIB * MIB / 1e9, "an allowance: its size is not known yet")
    return [DiskItem(kind="dataset", what=f"dataset {name}", mib=mib, place=HUB, why=why, pin=pin)]


def _tokenizer(spec: Spec) -> list[DiskItem]:
    name = policy_sizes.tokenizer(spec)
    if not name or name.startswith("/"):
        return []
    why = "the size of its four files"
    return [DiskItem(kind="tokenizer", what=f"tokenizer {name}", mib=TOKENIZER_MIB, place=HUB, why=why, pin=name)]


def _kernels(spec: Spec) -> list[DiskItem]:
    if not spec.train.get("policy.compile_model"):
        return []
    why = "an allowance for compile_model"
    return [DiskItem(kind="kernels", what="compiled kernels", mib=KERNELS_MIB, place=CACHE, why=why)]


def _checkpoints(spec: Spec, bytes_each: int, *, measured: bool, pinned: int) -> DiskItem:
    keep, copied = spec.checkpoints.keep, bool(spec.checkpoints.copy_to)
    best = bool(spec.checkpoints.best)
    count = keep + 1 + copied + best + pinned
    parts = [f"{keep} kept", *([f"{pinned} pinned"] if pinned else []), "1 in the making"]
    parts += ["1 the best"] if best else []
    parts += ["1 being copied"] if copied else []
    how = "measured" if measured else _reckoned(spec)
    each = _mib(bytes_each)
    what = f"{count} checkpoints of {gib(each)}"
    return DiskItem(kind="checkpoints", what=what, mib=count * each, place=RUN, why=f"{', '.join(parts)}; {how}")


def _reckoned(spec: Spec) -> str:
    bits = 8 * policy_sizes.width(spec)
    held, learnt = policy_sizes.of(spec).params, policy_sizes.trained(spec)
    if policy_sizes.is_adapted(spec):
        return f"the adapter alone, {learnt:g} B parameters and Adam's moments of them"
    return f"{held:g} B parameters and Adam's moments of {learnt:g} B, in {bits} bits"


def _sized(pin: str, sizes: Mapping[str, int], usual_gb: float, why: str) -> tuple[int, str]:
    if pin in sizes:
        return _mib(sizes[pin]), "as the Hub tells it"
    return _mib(usual_gb * 1e9), why


def _type(spec: Spec) -> str:
    return policy_sizes.kind(spec) or "a policy by path"


def _with(item: DiskItem, here_mib: int) -> DiskItem:
    return DiskItem(**{**vars(item), "here_mib": min(item.mib, here_mib)})


def _mib(amount: float) -> int:
    return math.ceil(amount / MIB)


def with_margin(save_mib: int) -> int:
    """What must be free for a save of this size, MiB: itself, and room for all that goes on beside it."""
    return save_mib + max(MARGIN_MIB, save_mib // MARGIN_PART)


def table(items: Iterable[Mapping[str, Any]], places: Mapping[str, str] = PLACES) -> list[str]:
    """A line for each thing of a `DiskPlan.to_json`: how much, what, where it goes, and where the number is from."""
    rows = [(gib(item["mib"]), item["what"], places[item["place"]], item["why"]) for item in items]
    sizes = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{much:>{sizes[0]}}  {what:<{sizes[1]}}  {place:<{sizes[2]}}  {why}" for much, what, place, why in rows]
