"""What `pi0q cache fetch` is to fetch: the inputs of a job or of a job file, as they lie here and on the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pi0q.jobs.amounts import gib
from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.jobs.estimates import disk
from pi0q.jobs.schema import flags
from pi0q.jobs.spec import Spec
from pi0q.queue import submission
from pi0q.queue.commands.common import open_reader
from pi0q.queue.settings import Settings
from pi0q.workers.claims import preflight
from pi0q.workers.host import probe
from pi0q.workers.host.files import MIB
from pi0q.workers.host.model_files import code_hashes
from pi0q.workers.hub import access, cached, requirements, snapshots
from pi0q.workers.hub.errors import HubError
from pi0q.workers.hub.requirements import Fetch
from pi0q.workers.hub.session import Pins
from pi0q.workers.runs.job_trust import JobTrust
from pi0q.workers.staging import inputs
from pi0q.workers.storage import inventory
from pi0q.workers.trainer import interpreter, owner_rules
from pi0q.workers.trainer.interpreter import NoTrainer

#: What becomes of a command that is refused.
NOTHING = "Nothing was fetched."
#: What a job file's name ends with.
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A job, or the job that a file describes."""

    spec: Spec
    #: "" for a file.
    job_id: str = ""
    #: Commits of an earlier run of it.
    pins: Pins = field(default_factory=lambda: Pins({}))
    resuming: bool = False


@dataclass(frozen=True, kw_only=True)
class Input:
    """One repository that the job reads."""

    fetch: Fetch
    #: The commit that its run would take now; "" where the Hub did not answer and the cache has one.
    commit: str
    bytes: int
    #: Whether that commit is here already, downloaded and verified by pi0q.
    here: bool


@dataclass(frozen=True, kw_only=True)
class Request:
    """All of it."""

    wish: Wish
    lerobot: str
    inputs: tuple[Input, ...]
    #: What the user should know.
    notes: tuple[str, ...] = ()


def wish(what: str, settings: Settings) -> Wish:
    """Return what a user means by this: a job file, else a job. Raises Pi0qError."""
    if Path(what).suffix.lower() in SUFFIXES or "/" in what or Path(what).is_file():
        if not Path(what).is_file():
            raise UsageError(f"There is no file {what}. {NOTHING}\nFix: name a job file, or a job of `pi0q ls`.")
        return Wish(spec=submission.load(what))
    store = open_reader()
    job = store.get(store.resolve(what))
    if (refused := JobTrust(settings.home, store.prefix).refusal(job)) is not None:
        raise UsageError(f"This box does not run job {job.id}: {refused}. {NOTHING}")
    try:
        spec = Spec.from_json(job.spec)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"The spec of job {job.id} is not valid: {error}. {NOTHING}") from None
    return Wish(spec=spec, job_id=job.id, pins=Pins(job.pins, job.uncompared), resuming=job.checkpoint is not None)


def look(wish: Wish, settings: Settings) -> Request:
    """Ask the Hub what the job reads and compare with the cache. Raises Pi0qError where the job may not run here."""
    trainer = interpreter.find(settings)
    lerobot = "" if isinstance(trainer, NoTrainer) else trainer.lerobot
    against = [*owner_rules.problems(wish.spec, settings)]
    against += [fault for fault in (flags.unsupported(lerobot) if lerobot else "",) if fault]
    if against:
        raise UsageError(
            f"This box does not run the job: {'; '.join(against)}. {NOTHING}\n"
            "Fix: change that setting of this box, or fetch on the box that is to run it"
        )
    wanted = requirements.wanted(wish.spec, resuming=wish.resuming, lerobot=lerobot)
    heard = access.ask(wanted, settings, pins=wish.pins, push="")
    wrong = next(iter(heard.errors), None)
    if wrong := wrong or preflight.unsafe_files(heard, wish.spec, lerobot, _allowed_code(settings)):
        raise refused(wrong)
    found = tuple(_input(fetch, heard, wish, settings) for fetch in wanted)
    notes = list(heard.notes)
    if isinstance(trainer, NoTrainer):
        notes.append(f"{trainer.why}; what the newest LeRobot reads is fetched")
    return Request(wish=wish, lerobot=lerobot, inputs=found, notes=tuple(notes))


def _allowed_code(settings: Settings) -> frozenset[str]:
    try:
        return code_hashes(settings)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"PI0Q_ALLOW_CODE={settings.allow_code} can't be read: {error}. {NOTHING}\n"
            "Fix: make it a file as sha256sum prints it, or unset PI0Q_ALLOW_CODE"
        ) from None


def _input(fetch: Fetch, heard: access.AccessReport, wish: Wish, settings: Settings) -> Input:
    commit = heard.commits.get(fetch.pin, "") or wish.pins.commits.get(fetch.pin, "")
    if not commit:
        return Input(fetch=fetch, commit="", bytes=cached.size_bytes(fetch, settings.hf_home, None), here=True)
    here = snapshots.is_complete(fetch, settings.hf_home, commit)
    size = heard.sizes.get(fetch.pin, 0) or cached.size_bytes(fetch, settings.hf_home, commit)
    return Input(fetch=fetch, commit=commit, bytes=size, here=here)


def check_disk(request: Request, settings: Settings) -> None:
    """Raise Pi0qError where the disk has no room for what is missing, and the usual margin."""
    missing = [one for one in request.inputs if not one.here]
    lacks = sum(max(0, one.bytes - inputs.parts_bytes(one.fetch, settings)) for one in missing)
    if not lacks:
        return
    needed, place = disk.with_margin(-(-lacks // MIB)), probe.disk(settings.hf_home)
    if needed <= place.free_mib:
        return
    free = gib(place.free_mib)
    raise Pi0qError(
        f"The disk is too small: {gib(needed)} are needed, {free} are free on {place.path}. {NOTHING}\n"
        f"Fix: {_room(settings)}"
    )


def _room(settings: Settings) -> str:
    """Return a command that makes room."""
    for item in inventory.everything(settings):
        if item.mib and not item.kept:
            return f"pi0q cache rm {inventory.key(item)}   # {gib(item.mib)}, used longest ago"
    return "pi0q cache ls lists what fills this disk; a larger data disk helps where all of it is in use"


def refused(error: HubError) -> Pi0qError:
    """Return an answer of the Hub as a command tells it: in the words in which a job's record has it."""
    return Pi0qError(f"{error.detail}\n{NOTHING}")
