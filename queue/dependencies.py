"""Resolve `after` of job files at submit: names to ids, of jobs on the server or of others of the same submit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pi0q.jobs import dependencies, start_point
from pi0q.jobs.errors import BadRecord, NotFound, UsageError
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.start_point import Reference
from pi0q.jobs.state import ENDED, State
from pi0q.queue import job_text

if TYPE_CHECKING:
    from pi0q.queue.store_reads import StoreReads


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """The jobs that a submit's files wait for, by the word that names each."""

    #: Jobs that are on the server; of one that was retried, the job that went on from it last.
    known: Mapping[str, Record] = field(default_factory=dict)
    #: Files of the same submit.
    together: Mapping[str, Spec] = field(default_factory=dict)

    def source(self, spec: Spec, reference: Reference) -> Record | None:
        """Return the awaited job that a job starts from; None where it does not wait for that, or needs not."""
        for word in spec.conditions.references:
            if word in self.together and word == reference.job:
                return _future(self.together[word])
            record = self.known.get(word)
            if record and reference.job in (word, record.id, record.name) and record.state is not State.SUCCEEDED:
                return record
        return None


def ordered(specs: Sequence[Spec]) -> list[Spec]:
    """Return the jobs of a submit so that each comes after those that it waits for.

    Raises UsageError where they wait for each other in a circle, or two have the name that a third waits for.
    """
    wanted = {name for spec in specs for name in spec.conditions.references}
    if not wanted:
        return list(specs)
    twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1 and name in wanted]
    if twice:
        raise UsageError(f"`after` names {twice[0]}, and two of the files have that name. Nothing was queued.")
    names = [f"{place} {spec.name}" for place, spec in enumerate(specs)]
    place_of = {spec.name: name for spec, name in zip(specs, names, strict=True)}
    awaited = {
        name: [place_of[one] for one in spec.conditions.references if one in place_of]
        for spec, name in zip(specs, names, strict=True)
    }
    try:
        order = dependencies.in_order(names, awaited)
    except ValueError as error:
        circle = " -> ".join(name.partition(" ")[2] for name in str(error).split(" -> "))
        raise UsageError(f"`after` leads round in a circle: {circle}. Nothing was queued.") from None
    by_name = dict(zip(names, specs, strict=True))
    return [by_name[name] for name in order]


def find(store: StoreReads, specs: Sequence[Spec]) -> Awaited:
    """Return the jobs that these wait for. Raises UsageError with every name that means none."""
    together = {spec.name: spec for spec in specs}
    known, faults = dict[str, Record](), list[str]()
    for spec in specs:
        for word in spec.conditions.references:
            if word in known or word in together:
                continue
            try:
                known[word] = _last(store, word)
            except (NotFound, BadRecord, UsageError) as error:
                faults.append(f"{spec.name}: after: {word}: {error}")
    if faults:
        raise UsageError(
            "\n".join([*faults, "Nothing was queued.", "Fix: pi0q ls --all   (names and ids of every job)"])
        )
    wanted = {word for spec in specs for word in spec.conditions.references}
    return Awaited(known=known, together={name: spec for name, spec in together.items() if name in wanted})


def _last(store: StoreReads, word: str) -> Record:
    record = store.get(store.resolve(word))
    seen = {record.id}
    while record.continued and record.continued not in seen:
        seen.add(record.continued)
        record = store.get(record.continued)
    return record


def _future(spec: Spec) -> Record:
    """Return the record that a job of the same submit is going to have, as far as its file says."""
    return Record(
        id="", name=spec.name, state=State.QUEUED, priority="", submitter="", spec=spec.to_json(), needs={},
        created_ms=0, updated_ms=0,
    )  # fmt: skip


def with_ids(spec: Spec, ids: Mapping[str, str]) -> Spec:
    """Return the job with ids in place of the words that name awaited jobs; `ids` by word."""
    conditions = spec.conditions
    if not conditions.references:
        return spec
    ok, after_any = (tuple(dict.fromkeys(ids[word] for word in words)) for words in (conditions.ok, conditions.any))
    train, reference = spec.train, start_point.reference_of(spec.train)
    if reference and reference.step is None and (job := ids.get(reference.job)):
        train = {**train, start_point.flag_of(train): str(Reference(job=job))}
    return replace(spec, conditions=replace(conditions, ok=ok, any=after_any), train=train)


def fields(spec: Spec, *, now_ms: int, pending: bool) -> dict[str, Any]:
    """Return what the record of a job keeps of its conditions; their jobs are named by id.

    Args:
        now_ms: The server's clock.
        pending: Whether the job starts from the last checkpoint of a job that it waits for.
    """
    conditions = spec.conditions
    if not conditions:
        return {}
    found: dict[str, Any] = {}
    if conditions.references:
        found["awaits"] = conditions.terms({name: name for name in conditions.references})
    if (start_ms := dependencies.start_ms(conditions.start_after, now_ms)) is not None and start_ms > now_ms:
        found["start_ms"] = start_ms
    reference = start_point.reference_of(spec.train)
    if pending and reference:
        found["start_job"] = reference.job
    return found


def sentences(spec: Spec, awaited: Awaited, *, now_ms: int) -> list[str]:
    """Return what a submit says of a job that waits: for what, and what happens where that fails. Pure."""
    conditions, told = spec.conditions, list[str]()
    if conditions.ok:
        names = ", ".join(_named(word, awaited) for word in conditions.ok)
        told.append(
            f"It starts after a success of {names}. Without one it stays waiting: `pi0q retry` of that job lets it "
            "go on, `pi0q release` starts it all the same."
        )
    if conditions.any:
        told.append(f"It starts after the end of {', '.join(_named(word, awaited) for word in conditions.any)}.")
    start_ms = dependencies.start_ms(conditions.start_after, now_ms)
    if start_ms is not None:
        past = start_ms <= now_ms
        told.append(
            f"Its start time {job_text.clock(start_ms)} is past: it does not wait for it."
            if past
            else f"It starts not before {job_text.clock(start_ms)}, in {job_text.span((start_ms - now_ms) / 1000)}."
        )
    return told


def _named(word: str, awaited: Awaited) -> str:
    record = awaited.known.get(word)
    if record is None:
        return word
    state = f", {record.label}" if record.state in ENDED or record.state is State.WAITING else ""
    return f"{record.name} ({record.id}{state})"
