"""Resolve `job:NAME@STEP` of a job file at submit: to a job's id, a step and the manifest of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pi0q.jobs import start_point
from pi0q.jobs.errors import BadRecord, NotFound, UsageError
from pi0q.jobs.estimates import policy_sizes
from pi0q.jobs.estimates.base_facts import SETTINGS, BaseFacts
from pi0q.jobs.record import Record
from pi0q.jobs.schema import flags, trained_model
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import Reference, StartPoint
from pi0q.jobs.state import ENDED

if TYPE_CHECKING:
    from pi0q.queue.dependencies import Awaited
    from pi0q.queue.store_reads import StoreReads

#: Steps that a message names.
NAMED = 6


def wanted(spec: Spec) -> bool:
    """Return whether the job starts from another job's checkpoint; a rehearsal's shrunk model starts from nothing."""
    return start_point.parse(policy_sizes.base(spec)) is not None


def resolve(store: StoreReads, spec: Spec) -> tuple[Spec, StartPoint | None]:
    """Return the job with the reference by id and step, and what it starts from; None where it names no job.

    Raises UsageError where it can't start from there.
    """
    reference = start_point.reference_of(spec.train)
    if reference is None or not wanted(spec):
        return spec, None
    return pointed(spec, choose(_source(store, reference, spec), reference, spec))


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one job of a submit starts from."""

    #: None where that is the last checkpoint of a job that it waits for.
    point: StartPoint | None
    #: What the record of the job that made it says of it.
    base: BaseFacts
    #: One line for a person.
    told: str


def resolve_all(
    store: StoreReads, specs: Sequence[Spec], awaited: Awaited | None = None
) -> tuple[list[Spec], list[Start | None]]:
    """Return the jobs as `resolve` does, and what each starts from; `awaited`: the jobs that they wait for.

    Raises UsageError with the faults of all of them.
    """
    resolved, starts, faults = list[Spec](), list["Start | None"](), list[str]()
    for spec in specs:
        try:
            if pending := _pending(spec, awaited):
                resolved.append(spec)
                starts.append(pending)
                continue
            after, point = resolve(store, spec)
        except UsageError as error:
            faults.append(str(error))
            continue
        resolved.append(after)
        source = store.get(point.job) if point else None
        told = f"{spec.name}: {sentence(point, source)}" if point and source else ""
        starts.append(Start(point=point, base=base_of(source), told=told) if point and source else None)
    if faults:
        raise UsageError("\n".join(faults))
    return resolved, starts


def _pending(spec: Spec, awaited: Awaited | None) -> Start | None:
    """Return a start from the last checkpoint of a job that it waits for; None where there is none to wait for.

    Raises UsageError where the job could start from no checkpoint of that.
    """
    reference = start_point.reference_of(spec.train)
    if awaited is None or reference is None or reference.step is not None or not wanted(spec):
        return None
    source = awaited.source(spec, reference)
    if source is None:
        return None
    if mistaken := _mistake(source, spec):
        raise _refused(spec, reference, f"{source.name} {mistaken[0]}", mistaken[1])
    told = f"{spec.name}: starts from the checkpoint that {source.name} ends with."
    return Start(point=None, base=base_of(source), told=told)


def base_of(source: Record) -> BaseFacts:
    """Return what a job's record says of its checkpoints as a base: the policy, and its settings. Pure."""
    train = _train(source)
    known = source.base or BaseFacts()
    given = {name: train.get(f"policy.{name}") for name in SETTINGS}
    stated = {name: value for name, value in given.items() if type(value) is SETTINGS[name]}
    return replace(known, policy=trained_model.kind(train) or known.policy, settings={**known.settings, **stated})


def pointed(spec: Spec, start: StartPoint) -> tuple[Spec, StartPoint | None]:
    """Return the job with its reference replaced by this start; None where it names no job."""
    if not wanted(spec):
        return spec, None
    flag = start_point.flag_of(spec.train)
    return replace(spec, train={**spec.train, flag: str(start.reference)}), start


def _source(store: StoreReads, reference: Reference, spec: Spec) -> Record:
    """Return the job that has the checkpoints now: what went on from the one that is named has taken them over."""
    try:
        record = store.get(store.resolve(reference.job))
        seen = {record.id}
        while record.continued and record.continued not in seen:
            seen.add(record.continued)
            record = store.get(record.continued)
    except (NotFound, BadRecord, UsageError) as error:
        raise _refused(spec, reference, str(error), "pi0q ls --all   (names and ids of every job)") from None
    return record


def choose(source: Record, reference: Reference, spec: Spec) -> StartPoint:
    """Return the checkpoint of the job that the reference means. Pure.

    Raises UsageError where there is none, or the job could not start from it.
    """
    known, name = source.known_checkpoints, f"{source.name} ({source.id})"
    if mistaken := _mistake(source, spec):
        raise _refused(spec, reference, f"{name} {mistaken[0]}", mistaken[1])
    if not known:
        cure = "choose another job: pi0q ls --all" if source.state in ENDED else f"pi0q checkpoint {source.id}"
        raise _refused(spec, reference, f"{name} has no verified checkpoint yet", cure)
    step = _best_step(source, reference, spec) if reference.best else reference.step
    step = max(known) if step is None else step
    if step not in known:
        steps = ", ".join(map(str, list(known)[-NAMED:]))
        there = Reference(job=source.id, step=max(known))
        what = f"{name} has no verified checkpoint of step {step}; it has {steps}"
        raise _refused(spec, reference, what, f"{start_point.flag_of(spec.train)}: {there}")
    return StartPoint(job=source.id, step=step, manifest=known[step], lerobot=source.lerobot)


def _best_step(source: Record, reference: Reference, spec: Spec) -> int:
    if source.best is None:
        what = f"{source.name} ({source.id}) has no best checkpoint: its file has no checkpoints.best, or none is saved"
        raise _refused(spec, reference, what, f"{start_point.flag_of(spec.train)}: {Reference(job=source.id)}")
    return source.best.step


def _train(source: Record) -> Mapping[str, Any]:
    theirs = source.spec.get("train")
    return theirs if isinstance(theirs, Mapping) else {}


def _mistake(source: Record, spec: Spec) -> tuple[str, str] | None:
    """Return why the job can't start from any checkpoint of the other one, and the cure."""
    trained, flag = _train(source), start_point.flag_of(spec.train)
    here, there = trained_model.kind(spec.train), trained_model.kind(trained)
    section = trained_model.section(spec.train)
    if source.spec.get("rehearsal"):
        return "is a rehearsal: its model is shrunk", "name the job that trained the whole model: pi0q ls --all"
    if here and there and here != there:
        cure = f"{section}: {{type: {there}}}, or name a job that trains {here}"
        return f"trains {there}, and this job {here}", cure
    adapted = any(name.startswith("peft.") for name in trained) or bool(trained.get("policy.use_peft"))
    if adapted and not spec.train.get("policy.use_peft"):
        return "trains an adapter: its checkpoint holds no weights of the model", "policy: {use_peft: true}"
    if source.lerobot and (unknown := flags.problems(spec.train, source.lerobot)):
        return (
            f"made its checkpoint with LeRobot {source.lerobot}, and this job is none for that: {unknown[0]}",
            f"leave out what LeRobot {source.lerobot} lacks, or start without {flag}",
        )
    return None


def _refused(spec: Spec, reference: Reference, what: str, cure: str) -> UsageError:
    flag = start_point.flag_of(spec.train)
    return UsageError(f"{spec.name}: train.{flag} is {reference}: {what}\nNothing was queued.\nFix: {cure}")


def sentence(start: StartPoint, source: Record) -> str:
    """Return one line for a person: what the job starts from, and where that lies."""
    box = f" on {source.box}" if source.box else ""
    copied = ", and a copy of it elsewhere" if str(start.step) in source.manifests else ""
    return f"starts from step {start.step} of {source.name} ({start.job}){box}{copied}; it is kept until then."
