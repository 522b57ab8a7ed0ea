"""What a signature of a job file covers, and what a box makes of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.errors import BadRecord
from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.signing import wording
from pi0q.jobs.signing.job_signature import (
    DAY_MS,
    VALID_MS,
    ClaimReceipt,
    Distrust,
    JobSignature,
    Seen,
    Verifier,
    canonical,
    forgery,
    lineage_of,
    staleness,
)
from pi0q.jobs.signing.keys import BadKey, PublicKey, Role, TrustedKeys, parse_file, parse_line
from pi0q.jobs.start_point import StartPoint
from pi0q.queue import ed25519, keys
from pi0q.queue.keys import PrivateKey
from pi0q.queue.signing import Signer

ID, OTHER, BEFORE = "a1a1a1a1a1a1", "b2b2b2b2b2b2", "c3c3c3c3c3c3"
SPEC: Mapping[str, Any] = {"name": "n", "train": {"steps": 10, "policy.optimizer_lr": 1e-05, "dataset.repo_id": "a/ü"}}
START = StartPoint(job=BEFORE, step=10, manifest="ab" * 32, lerobot="0.6.1")
PREFIX = "pi0q:"


def key(role: Role = Role.SUBMITTER) -> PrivateKey:
    made = ed25519.load(ed25519.generate())
    assert made is not None
    return PrivateKey(public=PublicKey(role=role, raw=ed25519.public_of(made), label="ada@laptop"), _key=made)


ADA, MALLORY, BOX = key(), key(), key(Role.BOX)
TRUSTED = keys.verifier(TrustedKeys(keys=(ADA.public, BOX.public)), PREFIX)


def record(signer: PrivateKey = ADA, *, prefix: str = PREFIX, lineage: tuple[str, ...] = (), **fields: Any) -> Record:
    """A record as it comes back from the server after a submit."""
    signature = Signer(key=signer, prefix=prefix, lineage=lineage).signature(ID, SPEC, START)
    known = {"id": ID, "name": "n", "state": "queued", "created_ms": "5", "spec": SPEC, "starts_from": START}
    return replace(from_hash(to_hash({**known, "signature": signature})), **fields)


def test_a_signed_job_is_trusted_after_its_way_through_the_server() -> None:
    assert forgery(record(), TRUSTED) is None


def with_byte_changed(job: Record) -> Record:
    assert job.signature
    value = job.signature.value
    return replace(job, signature=replace(job.signature, value=("B" if value[0] == "A" else "A") + value[1:]))


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (record(signature=None), Distrust.UNSIGNED),
        (record(MALLORY), Distrust.UNKNOWN_SIGNER),
        (record(BOX), Distrust.UNKNOWN_SIGNER),
        (record(id=OTHER), Distrust.OTHER_JOB),
        (record(prefix="other:"), Distrust.OTHER_QUEUE),
        (record(spec={**SPEC, "name": "m"}), Distrust.CHANGED),
        (record(spec={**SPEC, "train": {**SPEC["train"], "steps": 10.0}}), Distrust.CHANGED),
        (record(spec={**SPEC, "x": float("nan")}), Distrust.CHANGED),
        (record(starts_from=None), Distrust.CHANGED),
        (record(starts_from=replace(START, manifest="cd" * 32)), Distrust.CHANGED),
        (record(continues=OTHER), Distrust.CHANGED),
        (with_byte_changed(record()), Distrust.CHANGED),
    ],
    # A record holds the moment of its making; two processes of a test run must name the tests alike.
    ids=("unsigned", "unknown", "a box", "other id", "other prefix", "name", "type", "field", "no start", "manifest",
         "continues", "signature"),
)  # fmt: skip
def test_each_forgery_is_told_by_its_own_name(job: Record, why: Distrust) -> None:
    assert forgery(job, TRUSTED) is why


@pytest.mark.parametrize("field", ["issued_ms", "expires_ms", "lineage"])
def test_no_field_of_a_signature_can_be_changed(field: str) -> None:
    job = record()
    assert job.signature
    changed: Any = {"issued_ms": 1, "expires_ms": 2**52, "lineage": (OTHER,)}[field]
    assert forgery(replace(job, signature=replace(job.signature, **{field: changed})), TRUSTED) is Distrust.CHANGED


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    job = record()
    assert job.signature
    covered = job.signature.covered(SPEC, START)
    receipt = ClaimReceipt(key=ADA.id, job=ID, prefix=PREFIX, at_ms=5).covered()
    assert covered.split(b"\n")[0] != receipt.split(b"\n")[0]


def test_the_jobs_before_are_taken_over_from_a_genuine_signature_alone() -> None:
    before = record(lineage=(BEFORE,))
    assert lineage_of(before, genuine=True) == (BEFORE, ID)
    assert lineage_of(before, genuine=False) == (ID,)
    assert lineage_of(replace(before, signature=None), genuine=True) == (ID,)
    assert forgery(record(lineage=(BEFORE,), continues=BEFORE), TRUSTED) is None


def test_a_start_that_is_fixed_later_is_bound_to_the_job_that_makes_it() -> None:
    signature = Signer(key=ADA, prefix=PREFIX, start_job=BEFORE).signature(ID, SPEC, None)
    job = record(signature=signature)
    assert forgery(replace(job, starts_from=None), TRUSTED) is None and forgery(job, TRUSTED) is None
    elsewhere = replace(START, job=OTHER)
    assert forgery(replace(job, starts_from=elsewhere), TRUSTED) is Distrust.CHANGED
    moved = replace(signature, start_job=OTHER)
    assert forgery(replace(job, starts_from=elsewhere, signature=moved), TRUSTED) is Distrust.CHANGED


def receipt(signer: PrivateKey = BOX, *, at_ms: int, job: str = ID) -> ClaimReceipt:
    empty = ClaimReceipt(key=signer.id, job=job, prefix=PREFIX, at_ms=at_ms)
    return replace(empty, value=signer.sign(empty.covered()))


def test_expiry_limits_the_first_claim_alone() -> None:
    job = record()
    assert job.signature
    late = job.signature.expires_ms + 1
    assert staleness(job, TRUSTED, Seen(), now_ms=late - 1) is None
    assert staleness(job, TRUSTED, Seen(), now_ms=late) is Distrust.EXPIRED
    assert staleness(job, TRUSTED, Seen(claimed=True), now_ms=late) is None
    for given, why in (
        (receipt(at_ms=late - DAY_MS), None),
        (receipt(at_ms=late - VALID_MS - 1), Distrust.EXPIRED),
        (receipt(ADA, at_ms=late), Distrust.EXPIRED),
        (receipt(at_ms=late, job=OTHER), Distrust.EXPIRED),
        (replace(receipt(at_ms=late - VALID_MS - 1), at_ms=late), Distrust.EXPIRED),
    ):
        assert staleness(replace(job, receipt=given), TRUSTED, Seen(), now_ms=late) is why


def test_a_job_that_ended_here_is_run_again_only_by_a_newer_signature() -> None:
    job = record()
    assert job.signature
    issued = job.signature.issued_ms
    assert staleness(job, TRUSTED, Seen(ended_ms=issued), now_ms=issued) is Distrust.REPLAYED
    assert staleness(job, TRUSTED, Seen(claimed=True, ended_ms=issued + 5), now_ms=issued) is Distrust.REPLAYED
    assert staleness(job, TRUSTED, Seen(claimed=True, ended_ms=issued - 1), now_ms=issued) is None


def test_the_bytes_of_equal_specs_are_equal_and_of_others_are_not() -> None:
    assert canonical({"b": [1, 1.5], "a": "ü"}) == b'{"a":"\\u00fc","b":[1,1.5]}'
    assert canonical(json.loads(json.dumps(SPEC))) == canonical(SPEC)
    assert canonical({"a": 1}) != canonical({"a": True}) != canonical({"a": "1"})


@pytest.mark.parametrize("change", [{"key": "x"}, {"job": "../x"}, {"lineage": ["x"]}, {"value": "A"}, {"at": 1}])
def test_a_signature_that_pi0q_can_not_have_written_is_a_damaged_record(change: dict[str, Any]) -> None:
    job = record()
    assert isinstance(job.signature, JobSignature)
    raw = to_hash({"id": ID, "name": "n", "state": "queued", "created_ms": "5"})
    raw["signature"] = json.dumps({**job.signature.to_json(), **change})
    with pytest.raises(BadRecord, match="signature"):
        from_hash(raw)


def test_each_distrust_has_a_sentence_with_a_cure() -> None:
    for why in Distrust:
        told = wording.sentence(why.value, job=ID, key="k", detail="d")
        assert "Fix: " in told and "{" not in told


def test_a_line_of_trusted_keys_reads_as_it_is_written() -> None:
    assert parse_line(ADA.public.line()) == ADA.public
    found, faults = parse_file(
        ["# x", "", ADA.public.line(), ADA.public.line(), "admin ed25519 AA x", "box ed25519 AAAA"]
    )
    assert found.keys == (ADA.public,) and [fault.split(":")[0] for fault in faults] == ["line 5", "line 6"]
    assert found.find(ADA.id, Role.SUBMITTER) == ADA.public and found.find(ADA.id, Role.BOX) is None
    with pytest.raises(BadKey, match="not base64"):
        parse_line("box ed25519 ---- x")


def test_a_verifier_knows_submitters_alone() -> None:
    assert isinstance(TRUSTED, Verifier) and TRUSTED.knows(ADA.id) and not TRUSTED.knows(BOX.id)
