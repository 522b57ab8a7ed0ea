"""The start of a run: what is here against what is copied, and a copy that comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.checkpoint import Manifest
from pi0q.jobs.signing.keys import PublicKey
from pi0q.jobs.signing.manifest_signature import ManifestSignature
from pi0q.queue import keys
from pi0q.queue.settings import Settings
from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.restore import Restored
from pi0q.workers.runs.lease import LeaseExpired
from pi0q.workers.runs.stop import Stop
from tests.workers.checkpoints.conftest import Logged
from tests.workers.checkpoints.replication import ReplicationStandIn, Run, copy, known, saved, until
from tests.workers.checkpoints.saved import checkpoint, content


def test_a_checkpoint_here_as_new_as_all_known_ones_needs_no_copy(run: Run, process: ReplicationStandIn) -> None:
    record = known(checkpoint=saved(20), copied=copy(10))
    restored = run.restorer().newest(record, saved(20))
    assert restored == Restored(checkpoint=saved(20), copied=copy(10)) and process.requests.empty()
    # And is copied itself.
    run.replicator(record, epoch=2).resume(restored.checkpoint, restored.copied)
    assert process.step() == 20


def test_a_first_claim_looks_for_no_copies(run: Run, process: ReplicationStandIn) -> None:
    assert run.restorer(epoch=1).newest(known(), None) == Restored(checkpoint=None, copied=None)
    assert process.requests.empty()


def test_where_no_copies_are_wanted_none_are_looked_for(run: Run, process: ReplicationStandIn) -> None:
    run.spec = replace(run.spec, rehearsal=True)
    assert run.restorer().newest(known(checkpoint=saved(10), copied=copy(10)), None).checkpoint is None
    assert process.requests.empty()


def test_a_place_that_can_not_be_reached_costs_no_steps_but_time(run: Run, process: ReplicationStandIn) -> None:
    process.answers.put({"failed": "the Hub could not be reached"})
    with pytest.raises(Stop, match=r"network: its checkpoint of step 20 is copied to /share and can't be fetched now"):
        run.restorer().newest(known(checkpoint=saved(20), copied=copy(20)), saved(10))


def test_copies_that_are_gone_are_reported_and_what_is_here_is_taken(
    run: Run, process: ReplicationStandIn, logged: Logged
) -> None:
    process.answers.put({"fetched": ""})
    record = known(checkpoint=saved(20), copied=copy(20))
    restored = run.restorer().newest(record, saved(10))
    assert restored == Restored(checkpoint=saved(10), copied=None)
    assert logged.take() == ["WARNING: there is no good copy of step 20 in /share any more"]
    assert process.requests.get()["newer_than"] == 10
    run.replicator(record, epoch=2).resume(restored.checkpoint, restored.copied)
    assert process.step() == 10 and run.progress.fields["copied"] is None


def test_a_cancelled_fetch_forgets_no_copy(run: Run, process: ReplicationStandIn) -> None:
    """The run ends while it looks: what the record knows of copies must stay."""
    restorer = run.restorer()
    restorer.over.set()
    with pytest.raises(Stop, match="can't be fetched now: cancelled"):
        restorer.newest(known(checkpoint=saved(20), copied=copy(20)), saved(10))
    assert "copied" not in run.progress.fields


def test_past_the_lease_nothing_is_brought_back(run: Run, process: ReplicationStandIn) -> None:
    process.answers.put({"lost": "the lease is over"})
    with pytest.raises(LeaseExpired):
        run.restorer().newest(known(copied=copy(20)), None)


def test_a_checkpoint_goes_there_and_comes_back_past_a_damaged_one(shared: Run, tmp_path: Path, logged: Logged) -> None:
    made = shared.replicator()
    for step in (10, 20):
        made.on_sealed(checkpoint(shared.directory.checkpoints, step))
        until(lambda step=step: made.copied and made.copied.step == step)
    made.close()
    before = content(shared.directory.checkpoints / "000010")
    model = tmp_path / "share/a1a1a1a1a1a1/000020/pretrained_model/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    other = Run(tmp_path / "other", str(tmp_path / "share"), Settings(home=tmp_path / "other"))
    logged.take()
    manifests = shared.progress.fields["manifests"]
    assert list(manifests) == ["10", "20"]
    record = known(checkpoint=made.copied, copied=made.copied, manifests=manifests)
    restored = other.restorer().newest(record, None)
    back, directory = restored.checkpoint, other.directory.checkpoints / "000010"
    assert back and (back.step, back.path) == (10, str(directory))
    assert content(directory) == before
    assert (other.directory.checkpoints / "last").readlink() == Path("000010")
    assert local_store.newest(other.directory.checkpoints) == back
    assert restored.place == str(tmp_path / "share") and not (other.directory.path / "fetched").exists()
    assert restored.copied == replace(back, path=str(tmp_path / "share/a1a1a1a1a1a1/000010"))
    damaged = "WARNING: the copy of checkpoint 20 is damaged (pretrained_model/model.safetensors has"
    assert logged.take()[0].startswith(damaged)
    assert (tmp_path / "share/a1a1a1a1a1a1/000020.bad").is_dir()


def test_a_copy_that_the_record_does_not_name_is_refused(shared: Run, tmp_path: Path, logged: Logged) -> None:
    """Whoever can write to the shared directory can make a whole checkpoint with a manifest of its own."""
    made = shared.replicator()
    made.on_sealed(checkpoint(shared.directory.checkpoints, 10))
    until(lambda: made.copied)
    made.close()
    checkpoint(tmp_path / "share/a1a1a1a1a1a1", 399, seed=b"planted")
    other = Run(tmp_path / "other", str(tmp_path / "share"), Settings(home=tmp_path / "other"))
    logged.take()
    restored = other.restorer().newest(known(checkpoint=made.copied, copied=made.copied), None)
    assert restored.checkpoint and restored.checkpoint.step == 10
    assert logged.take()[0] == (
        f"WARNING: refused the copy of checkpoint 399 in {tmp_path / 'share'}: the job's record does not name its "
        "manifest; trying an older one"
    )


def test_a_copy_that_no_trusted_box_signed_is_refused_and_kept(shared: Run, tmp_path: Path) -> None:
    own = keys.box_key(tmp_path, "box-a")

    def sign(manifest: Manifest) -> Manifest:
        empty = ManifestSignature(key=own.id, job="a1a1a1a1a1a1")
        return replace(manifest, signature=replace(empty, value=own.sign(empty.covered(manifest.to_json()))))

    made = shared.replicator()
    checkpoint(shared.directory.checkpoints, 10)
    made.on_sealed(local_store.seal(shared.directory.checkpoints / "000010", step=10, epoch=1, sign=sign))
    until(lambda: made.copied)
    made.close()
    place = tmp_path / "share"
    record = known(checkpoint=made.copied, copied=made.copied)
    other = Run(tmp_path / "other", str(place), Settings(home=tmp_path / "other"))
    mine = keys.box_key(tmp_path / "other", "box-b").public

    def signers(*trusted: PublicKey, job: str = "a1a1a1a1a1a1", unsigned: bool = False) -> dict[str, Any]:
        return {"keys": [key.line() for key in (mine, *trusted)], "jobs": [job], "unsigned": unsigned}

    for wanted, why in (
        (signers(), "not signed by a box that this one trusts"),
        (signers(unsigned=True), "not signed by a box that this one trusts"),
        (signers(own.public, job="b2b2b2b2b2b2"), "it is a checkpoint of job a1a1a1a1a1a1"),
    ):
        with pytest.raises(Stop, match=why):
            other.restorer(signers=wanted).newest(record, None)
    restored = other.restorer(signers=signers(own.public)).newest(record, None)
    assert restored.checkpoint and restored.checkpoint.step == 10
    assert (place / "a1a1a1a1a1a1" / "000010").is_dir()


def test_an_unsigned_copy_comes_back_only_where_the_owner_allows_it(shared: Run, tmp_path: Path) -> None:
    made = shared.replicator()
    made.on_sealed(checkpoint(shared.directory.checkpoints, 10))
    until(lambda: made.copied)
    made.close()
    other = Run(tmp_path / "other", str(tmp_path / "share"), Settings(home=tmp_path / "other"))
    line = keys.box_key(tmp_path / "other", "box-b").public.line()
    record = known(checkpoint=made.copied, copied=made.copied)
    with pytest.raises(Stop, match="its manifest is not signed"):
        other.restorer(signers={"keys": [line], "jobs": [], "unsigned": False}).newest(record, None)
    restored = other.restorer(signers={"keys": [line], "jobs": [], "unsigned": True}).newest(record, None)
    assert restored.checkpoint and restored.checkpoint.step == 10
