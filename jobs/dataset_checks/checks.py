"""Look into a dataset before a GPU is claimed for it: every fault that is known to end a training, each with its cure.

    files -> read_dataset_main (a process) -> contents.parse -> checks.findings -> preflight, or this box's refusal

Each rule was held against the real LeRobot, once with a dataset that has the fault and once without
(tests/workers/trainer/test_dataset_faults_real.py): what LeRobot trains on is never refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pi0q.jobs.dataset_checks import features, frames, layout, stats, tables
from pi0q.jobs.dataset_checks.contents import DatasetContents
from pi0q.jobs.dataset_checks.finding import Finding, Source
from pi0q.jobs.dataset_checks.policy_inputs import PolicyInputs
from pi0q.jobs.outcome import Reason
from pi0q.jobs.schema.value_types import Value

INFO = "meta/info.json"
#: Findings that one message names.
NAMED = 4


def findings(
    contents: DatasetContents, inputs: PolicyInputs, train: Mapping[str, Value], at: Source
) -> tuple[Finding, ...]:
    """Return what is wrong, the cause of other faults first; nothing for what describes itself in no known way."""
    damaged = tuple(layout.check(contents, at))
    if not contents.features:
        # Nothing of what it says is known to be wrong, unless that very file can't be read.
        return damaged if any(bad.path == INFO for bad in contents.bad_files) else ()
    if any(finding.reason is Reason.DATASET_FORMAT for finding in damaged):
        return damaged
    return (
        *damaged,
        *features.check(contents, inputs, train, at),
        *stats.check(contents, inputs, train, at),
        *tables.check(contents, inputs, train, at),
        *frames.check(contents, train, at),
    )


def sentence(found: Iterable[Finding]) -> str:
    """Return all of them as one text, for a record and a refusal."""
    told = list(found)
    shown = ". ".join(f"{finding.what} ({finding.where}). Fix: {finding.cure}" for finding in told[:NAMED])
    return shown + (f". {len(told) - NAMED} more faults were found" if len(told) > NAMED else "")


def reason(found: Iterable[Finding]) -> Reason:
    """Return what the job is ended or held for: what is done outside of the job file counts before what is in it."""
    told = list(found)
    return next((one.reason for one in told if not one.in_file), told[0].reason)
