"""Why a box does not take a waiting job: values that the box announces, their JSON and their text.

A box writes the reasons for each job into its field `refusals`. Only what a person reads is made of words, by `str`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pi0q.jobs.amounts import gib
from pi0q.jobs.record_codecs import json_of
from pi0q.jobs.signing import wording

#: Caches that one line names, at the most.
NAMED_CACHES = 3
#: GPUs that one line names, at the most.
NAMED_CARDS = 8


class Refusal(ABC):
    """One reason of one box not to take one job."""

    kind: ClassVar[str]

    @abstractmethod
    def __str__(self) -> str:
        """Return the reason as a person reads it."""

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes the same value of."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class Problem(Refusal):
    """A reason without numbers: the job's spec, the trainer's environment, a directory of copies, the server."""

    kind = "problem"
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class NotTrusted(Refusal):
    """The box runs signed jobs only, and does not trust the job's file; a reason of jobs/signing `Distrust`."""

    kind = "not_trusted"
    job: str
    why: str
    #: Id of the signer's key; "" where there is no signature.
    key: str = ""
    #: Why the box can't verify, where that is the reason.
    detail: str = ""

    def __str__(self) -> str:
        return wording.sentence(self.why, job=self.job, key=self.key, detail=self.detail)


# -- the whole box ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Drained(Refusal):
    """A user keeps the box from new jobs."""

    kind = "drained"

    def __str__(self) -> str:
        return "the box is drained: `pi0q drain BOX --undo` lets it take jobs again"


@dataclass(frozen=True, kw_only=True)
class ServerRestarted(Refusal):
    """The queue's server came back a moment ago; boxes report the jobs that they hold before anyone claims."""

    kind = "server_restarted"
    #: How long that takes at most; None where it is not known.
    seconds: int | None = None

    def __str__(self) -> str:
        limit = f"up to {self.seconds} s " if self.seconds is not None else ""
        return f"queue server restarted; waiting {limit}for boxes to report their running jobs"


@dataclass(frozen=True, kw_only=True)
class StartsFail(Refusal):
    """Runner processes ended at start-up, so the box claims nothing for a while."""

    kind = "starts_fail"

    def __str__(self) -> str:
        return "runner processes keep exiting at start-up; claims paused (see the worker log)"


@dataclass(frozen=True, kw_only=True)
class WithoutCards(Refusal):
    """The box was started without its cards, or is one that never has any; it fetches what waiting jobs read."""

    kind = "without_cards"
    #: Whether it is a container that was started without its GPU, so that its next start may bring cards.
    no_gpu_mode: bool = True
    #: Whether it fetches (PI0Q_STAGING).
    fetches: bool = True
    #: How far it is with those of the job that is asked about: "here", "coming", or "" where it does not say so.
    inputs: str = ""

    @property
    def mode(self) -> str:
        """Return what the box is and does."""
        what = "no-GPU mode" if self.no_gpu_mode else "no card"
        return f"{what}: {'fetches inputs, claims nothing' if self.fetches else 'claims nothing'}"

    def __str__(self) -> str:
        told = {"here": "what this job reads is here", "coming": "it is fetching what this job reads"}
        cure = "start the box with its GPU to train" if self.no_gpu_mode else ""
        return "; ".join(filter(None, (self.mode, told.get(self.inputs, ""), cure)))


@dataclass(frozen=True, kw_only=True)
class NotChosen(Refusal):
    """The job's file keeps it from this box, or from its GPUs."""

    kind = "not_chosen"
    #: The key of the file, and what it says.
    key: str
    wanted: str
    #: The names of the box's GPUs, where these are the reason.
    present: str = ""

    def __str__(self) -> str:
        here = f", and this box has {self.present}" if self.present else ""
        return f"the file keeps it from this box: resources.{self.key} is {self.wanted}{here}"


# -- not yet ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RetryDelay(Refusal):
    """The job failed for a reason that may pass by itself; its next try is not due."""

    kind = "retry_delay"
    reason: str
    seconds: int

    def __str__(self) -> str:
        return f"its last run ended with {self.reason}: retried in {self.seconds} s"


@dataclass(frozen=True, kw_only=True)
class FailedHere(Refusal):
    """The job's last failure says something of this box, so other boxes may take it first."""

    kind = "failed_here"
    reason: str
    seconds: int

    def __str__(self) -> str:
        return f"its last run here ended with {self.reason}: left to other boxes for {self.seconds} s"


@dataclass(frozen=True, kw_only=True)
class CheckpointElsewhere(Refusal):
    """The job's checkpoint, or much of what it reads, lies on another box, which gets time to take the job."""

    kind = "checkpoint_elsewhere"
    box: str
    seconds: int
    what: str = "its checkpoint"

    def __str__(self) -> str:
        return f"waiting up to {self.seconds} s for {self.box}, which has {self.what}"


@dataclass(frozen=True, kw_only=True)
class PreflightRuns(Refusal):
    """The job's preflight has not ended."""

    kind = "preflight_runs"

    def __str__(self) -> str:
        return "preflight: asking the Hub and WandB for what the job needs"


@dataclass(frozen=True, kw_only=True)
class PreflightDelay(Refusal):
    """The job's preflight could not be completed here; it is repeated."""

    kind = "preflight_delay"
    why: str
    seconds: int

    def __str__(self) -> str:
        return f"preflight: {self.why}; asked again in {self.seconds} s"


@dataclass(frozen=True, kw_only=True)
class DatasetLook(Refusal):
    """The job's dataset on this box is being looked into."""

    kind = "dataset_look"

    def __str__(self) -> str:
        return "preflight: looking into the dataset"


@dataclass(frozen=True, kw_only=True)
class BadInput(Refusal):
    """What the job reads is not on this box, or not fit for it; another box may have it."""

    kind = "input"
    #: "dataset" or "weights".
    what: str
    #: What is wrong, with its cure.
    why: str
    #: The `Reason` for which the job ends where nobody has it.
    reason: str
    #: Whether the cure is a line of the job file.
    in_file: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


# -- capacity ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TooFewGpus(Refusal):
    """The box has fewer GPUs than the job needs."""

    kind = "gpus"
    needed: int
    present: int
    #: Why GPUs could not be measured, if so.
    fault: str = ""

    def __str__(self) -> str:
        why = f" ({self.fault})" if self.fault else ""
        return f"GPUs: needs {self.needed}, the box has {self.present or 'none'}{why}"


@dataclass(frozen=True, kw_only=True)
class TooLittleVram(Refusal):
    """Too few GPUs have the VRAM that the job needs."""

    kind = "vram"
    needed_mib: int
    gpus: int
    #: GPUs that have it.
    fitting: int
    #: Of the GPU with the most to give: what no job was promised, its size, and what running jobs were promised.
    free_mib: int
    total_mib: int
    promised_mib: int = 0

    def __str__(self) -> str:
        return (
            f"VRAM: needs {gib(self.needed_mib)} on {self.gpus} GPU{'s' * (self.gpus > 1)}, {self.fitting} have it; "
            f"the best has {gib(self.free_mib)} of {gib(self.total_mib)} free{_promised(self.promised_mib)}"
        )


@dataclass(frozen=True, kw_only=True)
class CardsTaken(Refusal):
    """Other trainings have the GPUs that would be large enough."""

    kind = "taken"
    needed: int
    #: GPUs that are free and large enough.
    fitting: int
    #: Of those that are taken, the number on the box and the job that has it.
    taken: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        shown = [f"card {card} is taken by job {job}" for card, job in self.taken[:NAMED_CARDS]]
        if (more := len(self.taken) - NAMED_CARDS) > 0:
            shown.append(f"{more} more are taken")
        free = f"{self.fitting} of the {self.needed} cards that it needs are free; " if self.needed > 1 else ""
        return f"GPUs: {free}{', '.join(shown)}"


@dataclass(frozen=True, kw_only=True)
class CardsReserved(Refusal):
    """GPUs that are free are kept for a job that needs more of them than are free now."""

    kind = "reserved"
    job: str
    cards: tuple[int, ...]
    #: In how many seconds that job may start; None where nobody knows.
    seconds: int | None = None

    def __str__(self) -> str:
        start = "" if self.seconds is None else f", which may start in {_span(self.seconds)}"
        shown = ", ".join(map(str, self.cards[:NAMED_CARDS]))
        many = len(self.cards) > 1
        return (
            f"GPUs: card{'s' * many} {shown} {'are' if many else 'is'} kept for job {self.job}{start}; "
            "only a job that is sure to end before gets in between: `time_limit: 2h` in its file says so"
        )


@dataclass(frozen=True, kw_only=True)
class SlotsInUse(Refusal):
    """The box runs as many jobs as it may."""

    kind = "slots"
    used: int
    slots: int

    def __str__(self) -> str:
        return f"{self.used} of {self.slots} slots are in use"


@dataclass(frozen=True, kw_only=True)
class TooLittleDisk(Refusal):
    """A disk has less room than what the job still has to put there."""

    kind = "disk"
    needed_mib: int
    #: What no running job was promised; less than 0 where more was promised than is free.
    free_mib: int
    path: str
    promised_mib: int = 0
    #: Caches that may be evicted: the names of some, how many there are, and what they would free.
    caches: tuple[str, ...] = ()
    cache_count: int = 0
    cache_mib: int = 0

    @property
    def lacking_mib(self) -> int:
        """What would have to come free."""
        return self.needed_mib - self.free_mib

    def __str__(self) -> str:
        free = f"{gib(max(0, self.free_mib))} free on {self.path}{_promised(self.promised_mib)}"
        text = f"disk: needs {gib(self.needed_mib)}, {free}"
        if not self.caches:
            return text
        goes = "goes" if self.cache_count == 1 else "go"
        return f"{text} and {gib(self.cache_mib)} more if {_listed(self.caches, self.cache_count)} {goes}"


@dataclass(frozen=True, kw_only=True)
class TooFewInodes(Refusal):
    """A file system can hold fewer files than a run makes."""

    kind = "inodes"
    path: str
    free: int
    needed: int

    def __str__(self) -> str:
        return f"inodes: {self.path} can hold {self.free} more files, {self.needed} are needed"


@dataclass(frozen=True, kw_only=True)
class TooLittleSystemDisk(Refusal):
    """The system disk has less room than what must stay free on it."""

    kind = "system_disk"
    free_mib: int
    reserve_mib: int
    #: Commands that empty other tools' caches there, each with the MiB that it frees.
    commands: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        text = f"system disk: {gib(self.free_mib)} free, {gib(self.reserve_mib)} must stay free"
        frees = "; ".join(f"`{command}` frees up to {mib / 1024:.1f} GiB" for command, mib in self.commands)
        return f"{text}: {frees}" if frees else text


KINDS: Mapping[str, type[Refusal]] = {one.kind: one for one in Refusal.__subclasses__()}

#: Reasons that pass without anyone's doing: such a box may still be the one that takes the job.
PASSING: tuple[type[Refusal], ...] = (
    ServerRestarted,
    StartsFail,
    RetryDelay,
    FailedHere,
    CheckpointElsewhere,
    PreflightRuns,
    PreflightDelay,
    CardsReserved,
    CardsTaken,
    SlotsInUse,
    TooLittleVram,
)


def lasts(why: Iterable[Refusal]) -> bool:
    """Return whether any of these reasons stays until someone does something."""
    return any(not isinstance(one, PASSING) for one in why)


# -- a box's field `refusals` -----------------------------------------------------------------------


def dumps(refusals: Mapping[str, Iterable[Refusal]]) -> str:
    """Return the field's text: job -> its refusals."""
    return json.dumps({job_id: [one.to_json() for one in why] for job_id, why in refusals.items()})


def loads(text: str | None) -> dict[str, tuple[Refusal, ...]]:
    """Parse the field of a box of any version; empty where it announced none, or none that can be read."""
    try:
        field = json_of(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(job_id): _parse(why) for job_id, why in field.items()} if isinstance(field, dict) else {}


def from_json(value: Any) -> Refusal:
    """Return the refusal that `to_json` wrote; a kind that this version does not know is told by its values."""
    if not isinstance(value, Mapping):
        return Problem(text=str(value))
    fields = {name: _tuples(field) for name, field in value.items() if name != "kind"}
    try:
        made = KINDS[str(value.get("kind"))](**fields)
        # Its values may be anything: then it has no text.
        str(made)
        return made
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        values = ", ".join(f"{name} {field}" for name, field in fields.items())
        return Problem(text=f"{value.get('kind')}: {values}" if values else str(value.get("kind")))


def _parse(why: Any) -> tuple[Refusal, ...]:
    # Boxes of the version before this one announce all reasons in one string; kept for one release.
    return tuple(map(from_json, why)) if isinstance(why, list) else (from_json(why),)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _span(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _promised(mib: int) -> str:
    return f" ({gib(mib)} more are promised to running jobs)" if mib > 0 else ""


def _listed(names: Sequence[str], count: int) -> str:
    """`the cache of a, the cache of b and 3 more`."""
    shown = [*names, f"{count - len(names)} more"] if count > len(names) else list(names)
    *most, last = shown
    return f"{', '.join(most)} and {last}" if most else last
