"""The signature of a sweep on the trials that a search proposes: inside its space, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs import sweep_trials
from pi0q.jobs.errors import BadRecord
from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.signing.job_signature import Distrust, Seen, forgery, staleness
from pi0q.jobs.signing.keys import TrustedKeys
from pi0q.jobs.signing.sweep_warrant import of_sweep, trial_id
from pi0q.jobs.spec import Spec, parse
from pi0q.queue import keys
from pi0q.queue.signing import Signer
from tests.jobs.signing.test_job_signature import key

SWEEP, PREFIX = "a1a1a1a1a1a1", "pi0q:"
FILE = """
name: best_lr
sweep: {kind: tpe, trials: 6, space: {train.policy.optimizer_lr: {from: 1e-5, to: 1e-3}, train.batch_size: [8, 16]}}
train: {dataset: {repo_id: local/d, root: d}, policy: {type: act}, steps: 10}
"""
ADA = key()
VERIFIER = keys.verifier(TrustedKeys(keys=(ADA.public,)), PREFIX)


def sweep(signer: keys.PrivateKey = ADA) -> Record:
    """The record of a search that a user signed, as the server has it."""
    spec = parse(FILE, filename="sweep.yaml").to_json()
    signature = Signer(key=signer, prefix=PREFIX).signature(SWEEP, spec, None)
    known = {"id": SWEEP, "name": "best_lr", "state": "waiting", "created_ms": 5, "spec": spec, "signature": signature}
    return from_hash(to_hash(known))


def trial(number: int = 3, *, parent: Record | None = None, **fields: Any) -> Record:
    """The record of a trial as a search queues it."""
    parent = parent or sweep()
    values = {"train.policy.optimizer_lr": 3e-4, "train.batch_size": 16}
    spec = sweep_trials.with_values(Spec.from_json(parent.spec), number, values).to_json()
    known = {"id": trial_id(SWEEP, number), "name": f"best_lr/{number:04d}", "state": "queued", "created_ms": 5}
    own = {"spec": spec, "sweep": SWEEP, "sweep_number": number, "warrant": of_sweep(parent)}
    return from_hash(to_hash({**known, **own, **fields}))


def with_spec(**train: Any) -> Record:
    spec: dict[str, Any] = dict(trial().spec)
    return trial(spec={**spec, "train": {**spec["train"], **train}})


def test_a_trial_is_trusted_by_the_signature_of_its_sweep() -> None:
    job = trial()
    assert job.signature is None and job.warrant and forgery(job, VERIFIER) is None
    expires = job.warrant.signature.expires_ms
    assert staleness(job, VERIFIER, Seen(), now_ms=expires) is None
    assert staleness(job, VERIFIER, Seen(), now_ms=expires + 1) is Distrust.EXPIRED
    ended = Seen(ended_ms=job.warrant.signature.issued_ms)
    assert staleness(job, VERIFIER, ended, now_ms=expires) is Distrust.REPLAYED


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (with_spec(**{"policy.optimizer_lr": 0.5}), Distrust.OUTSIDE_SWEEP),
        (with_spec(batch_size=32), Distrust.OUTSIDE_SWEEP),
        (with_spec(steps=11), Distrust.OUTSIDE_SWEEP),
        (with_spec(**{"dataset.repo_id": "mallory/d"}), Distrust.OUTSIDE_SWEEP),
        # Each number is one job: else a warrant would be one for any number of jobs.
        (trial(id="d4d4d4d4d4d4"), Distrust.OUTSIDE_SWEEP),
        (trial(sweep="e5e5e5e5e5e5"), Distrust.OUTSIDE_SWEEP),
        (trial(1000), Distrust.OUTSIDE_SWEEP),
        (trial(parent=sweep(key())), Distrust.UNKNOWN_SIGNER),
        (replace(trial(), warrant=None), Distrust.UNSIGNED),
        (trial(continues="b2b2b2b2b2b2"), Distrust.CHANGED),
    ],
)
def test_what_the_sweep_does_not_cover_is_refused(job: Record, why: Distrust) -> None:
    assert forgery(job, VERIFIER) is why


def test_a_space_that_was_widened_is_not_the_one_that_was_signed() -> None:
    job = with_spec(batch_size=32)
    assert job.warrant is not None
    wider: dict[str, Any] = json.loads(json.dumps(job.warrant.spec))
    wider["sweep"]["space"]["train.batch_size"] = [8, 16, 32]
    assert forgery(replace(job, warrant=replace(job.warrant, spec=wider)), VERIFIER) is Distrust.CHANGED


def test_a_sweep_that_is_no_search_vouches_for_nothing() -> None:
    grid = FILE.replace("kind: tpe, trials: 6, ", "").replace("{from: 1e-5, to: 1e-3}", "[3e-4, 1e-4]")
    spec = parse(grid, filename="sweep.yaml").to_json()
    signature = Signer(key=ADA, prefix=PREFIX).signature(SWEEP, spec, None)
    parent = replace(sweep(), spec=spec, signature=signature)
    assert forgery(trial(parent=parent), VERIFIER) is Distrust.OUTSIDE_SWEEP


@pytest.mark.parametrize("text", ["[]", "{}", '{"spec": {}, "starts_from": null, "signature": {}}', "x"])
def test_a_warrant_that_pi0q_cannot_have_written_is_a_damaged_record(text: str) -> None:
    with pytest.raises(BadRecord, match="warrant"):
        from_hash({**to_hash({"id": SWEEP, "name": "n", "state": "queued", "created_ms": 5}), "warrant": text})
