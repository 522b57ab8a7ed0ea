"""The trials of a sweep as jobs, and whether a job is one of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pi0q.jobs.errors import Fault, SpecError
from pi0q.jobs.schema.value_types import Value
from pi0q.jobs.spec import Spec
from pi0q.jobs.sweep import trial_name, written

#: Faults of trials that are told.
MOST_FAULTS = 10


def trial(parent: Spec, number: int) -> Spec:
    """Return the job of a trial; the first is number 1. Raises SpecError where its values do not go together."""
    if parent.sweep is None:
        raise ValueError(f"{parent.name} is no sweep")
    return with_values(parent, number, parent.sweep.values(number))


def with_values(parent: Spec, number: int, values: Mapping[str, Value]) -> Spec:
    """Return the job of a sweep with these values. Raises SpecError where they do not go together."""
    return _with_written(parent, number, {key: written(key, value) for key, value in values.items()})


def _with_written(parent: Spec, number: int, values: Mapping[str, object]) -> Spec:
    """Return the job of a sweep with values as a job file has them. Raises SpecError."""
    data = {**parent.to_json(), "name": trial_name(parent.name, number)}
    data.pop("sweep", None)
    for key, value in values.items():
        section, _, name = key.partition(".")
        data[section] = {**_section(data, section), name: value} if name else value
    return Spec.from_json(data)


def _section(data: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = data.get(name)
    return found if isinstance(found, Mapping) else {}


def checked(parent: Spec, filename: str) -> Spec:
    """Return the job. Raises SpecError where values of a trial, each good by itself, do not go together."""
    if found := _faults(parent):
        raise SpecError(filename, found)
    return parent


def _faults(parent: Spec) -> list[Fault]:
    """Return what is wrong with trials, each fault once."""
    found = dict[str, Fault]()
    for number in range(1, (parent.sweep.total if parent.sweep else 0) + 1):
        for text in _faults_of(parent, number):
            found.setdefault(text, Fault(1, f"trial {number}: {text}", "sweep"))
        if len(found) >= MOST_FAULTS:
            break
    return list(found.values())


def _faults_of(parent: Spec, number: int) -> Iterator[str]:
    try:
        trial(parent, number)
    except SpecError as error:
        yield from map(str, error.faults)


def why_outside(parent: Spec, child: Spec) -> str:
    """Return why a job is no trial of a sweep; "" where it is one: all keys that do not vary are the sweep's own."""
    sweep = parent.sweep
    if sweep is None:
        return f"{parent.name} is no sweep"
    theirs = child.to_json()
    values = {key: _value(theirs, key) for key in sweep.space}
    if key := sweep.outside(values):
        return f"{key} is outside the space of the sweep"
    if child.sweep is not None:
        return "it is a sweep itself"
    try:
        like = replace(_with_written(parent, 1, values), name=child.name)
    except SpecError as error:
        return str(error.faults[0])
    if not child.name.startswith(f"{parent.name}/"):
        return f"its name does not begin with {parent.name}/"
    ours = like.to_json()
    differing = next((key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)), "")
    return f"{differing} differs from that of the sweep" if differing else ""


def _value(data: Mapping[str, object], key: str) -> object:
    """Return the value of a dotted key of a job, as its file has it; None where it is left out."""
    section, _, name = key.partition(".")
    return _section(data, section).get(name) if name else data.get(section)


def inside(parent: Spec, child: Spec) -> bool:
    """Return whether a job is a trial of a sweep."""
    return not why_outside(parent, child)
