"""The signature of a sweep on its trials: what a search proposes later, inside the space that was signed. Pure.

The trials of a grid, a list or a random sweep are signed at submit, each by itself. Those of a search do not exist
then, and who proposes them has no key of the submitter: each carries the sweep's own spec and signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pi0q.jobs.errors import SpecError
from pi0q.jobs.record_codecs import SPEC, Codec, json_of, mapping
from pi0q.jobs.signing.job_signature import SIGNATURE, JobSignature
from pi0q.jobs.start_point import START_POINT, StartPoint

if TYPE_CHECKING:
    from pi0q.jobs.record import Record

#: Proposals that may be left out because their values do not go together, for each trial of the sweep.
LEFT_OUT = 4


@dataclass(frozen=True, kw_only=True)
class SweepWarrant:
    """A sweep as its submitter signed it, as the record of each of its proposed trials keeps it."""

    #: The sweep's `Spec.to_json()`.
    spec: Mapping[str, Any]
    #: The checkpoint that it starts from, as it was signed.
    starts_from: StartPoint | None
    #: Its signature; `job` is the sweep's id.
    signature: JobSignature

    def covered(self) -> bytes:
        """Return the bytes that are signed. Raises ValueError for a spec that is no JSON."""
        return self.signature.covered(self.spec, self.starts_from)

    def to_json(self) -> dict[str, Any]:
        """Return what the record keeps."""
        start = self.starts_from
        return {
            "spec": dict(self.spec),
            "starts_from": start.to_json() if start else None,
            "signature": self.signature.to_json(),
        }


def of_sweep(sweep: Record) -> SweepWarrant | None:
    """Return what the trials of a sweep carry; None where nobody signed it."""
    if sweep.signature is None:
        return None
    return SweepWarrant(spec=sweep.spec, starts_from=sweep.starts_from, signature=sweep.signature)


def trial_id(sweep: str, number: int) -> str:
    """Return the id of the job of a proposal: the same whenever it is made, so that a warrant makes no second one."""
    import hashlib  # it loads OpenSSL, and a submit needs nothing of it

    return hashlib.sha256(f"{sweep}:{number}".encode()).hexdigest()[:12]


def why_no_trial(trial: Record, warrant: SweepWarrant) -> str:
    """Return why a job is no trial of a signed sweep; "" where it is: values inside the space, all else as signed."""
    from pi0q.jobs import sweep_trials  # with the parser of job files, and most commands read no sweep
    from pi0q.jobs.spec import Spec
    from pi0q.jobs.sweep import TPE, trial_name

    number = trial.sweep_number or 0
    if warrant.signature.job != trial.sweep or trial.id != trial_id(trial.sweep, number):
        return "it is no job of this sweep"
    try:
        parent, child = Spec.from_json(warrant.spec), Spec.from_json(trial.spec)
    except SpecError as error:
        return str(error.faults[0])
    if parent.sweep is None or parent.sweep.kind != TPE:
        return f"{parent.name} is no search"
    if not 1 <= number <= LEFT_OUT * parent.sweep.total or child.name != trial_name(parent.name, number):
        return "its number is none of the sweep"
    if not warrant.signature.start_job and trial.starts_from != warrant.starts_from:
        return "it starts from another checkpoint"
    return sweep_trials.why_outside(parent, child)


def _read(text: str) -> SweepWarrant:
    found = mapping(json_of(text))
    if set(found) != {"spec", "starts_from", "signature"}:
        raise ValueError
    start = found["starts_from"]
    return SweepWarrant(
        spec=SPEC.read(json.dumps(found["spec"])),
        starts_from=START_POINT.read(json.dumps(start)) if start is not None else None,
        signature=SIGNATURE.read(json.dumps(found["signature"])),
    )


WARRANT = Codec(_read, "a signed sweep as JSON", lambda value: value and value.to_json())
