"""What one box makes of signed jobs: its file of trusted keys changes, it remembers what has ended, it signs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.checkpoint import File, Manifest
from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.signing import manifest_signature
from pi0q.jobs.signing.job_signature import Distrust, Seen
from pi0q.jobs.signing.keys import Role, TrustedKeys
from pi0q.queue import keys
from pi0q.queue.signing import Signer
from pi0q.workers.runs.job_memory import FILE, JobMemory
from pi0q.workers.runs.job_trust import JobTrust, NotTrustedJob

ID, OTHER, PREFIX = "a1a1a1a1a1a1", "b2b2b2b2b2b2", "t:"


@pytest.fixture
def ada(tmp_path: Path) -> keys.PrivateKey:
    keys.create_private(tmp_path / "ada.pem")
    return keys.load_private(tmp_path / "ada.pem", Role.SUBMITTER, "ada")


@pytest.fixture
def trust(tmp_path: Path) -> JobTrust:
    return JobTrust(tmp_path / "home", PREFIX, trusted_keys=tmp_path / "trusted_keys")


def record(signer: keys.PrivateKey, spec: dict[str, object] | None = None) -> Record:
    spec = spec or {"name": "n"}
    signature = Signer(key=signer, prefix=PREFIX).signature(ID, spec, None)
    known = {"id": ID, "name": "n", "state": "queued", "created_ms": "5", "spec": spec, "signature": signature}
    return from_hash(to_hash(known))


def why(trust: JobTrust, job: Record) -> str:
    refused = trust.refusal(job)
    return refused.why if refused else ""


def test_without_a_file_of_trusted_keys_nothing_need_be_signed(trust: JobTrust, ada: keys.PrivateKey) -> None:
    job = record(ada)
    assert why(trust, job) == why(trust, replace(job, signature=None)) == "" and not trust.demanded
    assert trust.receipt(ID, "box-a") is None and not trust.home.exists()


def test_a_change_of_the_file_counts_at_once(trust: JobTrust, ada: keys.PrivateKey) -> None:
    job = record(ada)
    keys.write_trusted(trust.path, TrustedKeys(keys=(ada.public,)))
    assert why(trust, job) == "" and why(trust, replace(job, spec={"name": "m"})) == Distrust.CHANGED.value
    keys.write_trusted(trust.path, TrustedKeys())
    assert why(trust, job) == Distrust.UNKNOWN_SIGNER.value
    with pytest.raises(NotTrustedJob, match="does not trust"):
        trust.require(job)
    trust.path.unlink()
    assert why(trust, job) == ""


@pytest.mark.parametrize("damage", ["text", "link"])
def test_a_file_that_cannot_be_read_trusts_nobody(trust: JobTrust, ada: keys.PrivateKey, damage: str) -> None:
    if damage == "text":
        trust.path.write_text("nonsense\n")
    else:
        trust.path.symlink_to("nowhere")
    assert why(trust, record(ada)) == Distrust.NO_KEYS.value


def test_a_job_that_ended_is_refused_though_its_signature_is_good(trust: JobTrust, ada: keys.PrivateKey) -> None:
    keys.write_trusted(trust.path, TrustedKeys(keys=(ada.public,)))
    job = record(ada)
    trust.memory.note_claimed(ID)
    assert why(trust, job) == ""
    JobMemory(trust.home).note_ended([ID, "../x"])
    assert why(trust, job) == Distrust.REPLAYED.value
    time.sleep(0.002)
    assert why(trust, record(ada)) == "", "its submitter signed it anew"


def test_the_memory_survives_damage_and_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi0q.workers.runs.job_memory.MOST_JOBS", 10)
    memory = JobMemory(tmp_path)
    memory.note_claimed(ID)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"ended\nended zzz 5\n\xff\xff\n")
    memory.note_ended([ID])
    assert JobMemory(tmp_path).seen(ID).claimed and memory.seen(ID).ended_ms
    for number in range(60):
        memory.note_ended([f"{number:012x}"])
    assert len((tmp_path / FILE).read_text(errors="replace").splitlines()) <= 30
    assert memory.seen(f"{59:012x}").ended_ms and memory.seen(ID) == Seen()


def test_a_box_signs_manifests_and_receipts_that_its_public_key_verifies(trust: JobTrust, ada: keys.PrivateKey) -> None:
    manifest = Manifest(step=10, epoch=1, files={"a": File(bytes=1, sha256="ab" * 32)})
    assert trust.sign_manifest(manifest, job=ID, box="box-a") is manifest
    keys.write_trusted(trust.path, TrustedKeys(keys=(ada.public,)))
    signed = Manifest.from_json(trust.sign_manifest(manifest, job=ID, box="box-a").to_json())
    verifier = keys.verifier(TrustedKeys(keys=(trust.own_key("box-a").public,)), PREFIX)

    def fault(changed: Manifest, jobs: list[str] | None = None) -> str:
        return manifest_signature.fault(changed.signature, changed.to_json(), verifier.by_box, jobs=jobs)

    assert fault(signed) == fault(signed, [ID]) == ""
    assert "not signed by a box" in fault(replace(signed, step=20))
    assert "not signed by a box" in fault(replace(signed, files={"a": File(bytes=1, sha256="cd" * 32)}))
    assert fault(signed, [OTHER]) == f"it is a checkpoint of job {ID}"
    assert fault(manifest) == "its manifest is not signed"
    receipt = trust.receipt(ID, "box-a")
    assert receipt and verifier.by_box(receipt.key, receipt.covered(), receipt.value)
