"""An owner on a real queue: what it writes carries who it is, and a server with older data is put right."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.queue.ownership_lost import OwnershipLost
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant
from pi0q.workers.runs import ledger as ledgers
from pi0q.workers.runs.lease import Lease
from pi0q.workers.runs.ownership import Ownership, take
from tests.conftest import JobDriver

CLAIMANT = Claimant(box="box-a", boot="1", lease_seconds=600.0)
SAVED = Saved(step=20, path="/data/runs/x/output/checkpoints/000020", manifest="ab" * 32, bytes=9)


class Held:
    """A job that box-a runs, and the keys of it as they were at some time."""

    def __init__(self, store: Store, driver: JobDriver, place: Path) -> None:
        self.store, self.driver, self.path = store, driver, place / "ledger.json"
        self.job = driver.submit()
        self.now = 100.0
        self.queued = self.copied()
        self.epoch = driver.claim(self.job)
        self.claimed = self.copied()
        known, since = take(store, *store.get_with_raw(self.job), claim=self.epoch, claimant=CLAIMANT, run_dir=place)
        assert since > 0
        self.lease = Lease(place / "lease", seconds=600.0, fence=480.0, since=self.now, clock=lambda: self.now)
        self.owner = Ownership(store, known, self.path, self.lease)
        self.owner.write()

    def all_keys(self) -> list[str]:
        return sorted(self.store.client.scan_iter(f"{self.store.prefix}*"))

    def copied(self) -> dict[str, str]:
        """All keys of the store, with a copy of each kept beside it."""
        keys = [key for key in self.all_keys() if ":kept:" not in key]
        copies = {key: f"{self.store.prefix}:kept:{secrets.token_hex(6)}" for key in keys}
        for key, copy in copies.items():
            self.store.client.copy(key, copy)
        return copies

    def older(self, kept: dict[str, str]) -> None:
        """The server comes back as it was then."""
        for key in self.all_keys():
            if ":kept:" not in key and not key.endswith(":server"):
                self.store.client.delete(key)
        for key, copy in kept.items():
            self.store.client.copy(copy, key)

    def on_disk(self) -> ledgers.Ledger:
        found = ledgers.read(self.path)
        assert found is not None
        return found


@pytest.fixture
def held(store: Store, driver: JobDriver, tmp_path: Path) -> Held:
    return Held(store, driver, tmp_path)


def test_what_it_took_is_on_the_disk_at_once(held: Held) -> None:
    known = held.on_disk()
    assert (known.job_id, known.epoch, known.box, known.boot) == (held.job, held.epoch, "box-a", "1")
    assert known.fields["state"] == "preparing" and known.fields["attempt"] == "1"
    raw = held.store.raw(held.job)
    assert {name for name in raw if known.fields.get(name) != raw[name]} <= {"updated_ms"}


def test_taking_a_claim_in_hand_renews_its_lease(held: Held, store: Store, driver: JobDriver, tmp_path: Path) -> None:
    job = driver.submit()
    epoch, leases = driver.claim(job), store.prefix + "leases"
    store.client.zadd(leases, {job: store.now_ms() + 1000})
    take(store, *store.get_with_raw(job), claim=epoch, claimant=CLAIMANT, run_dir=tmp_path)
    left = float(store.client.zscore(leases, job) or 0) - store.now_ms()
    assert left > (CLAIMANT.lease_seconds - 60) * 1000


def test_a_second_start_of_the_same_claim_takes_nothing(held: Held, tmp_path: Path) -> None:
    with pytest.raises(OwnershipLost):
        take(held.store, *held.store.get_with_raw(held.job), claim=held.epoch, claimant=CLAIMANT, run_dir=tmp_path)


@pytest.mark.parametrize("since", ["queued", "claimed", "nothing"])
def test_an_older_server_is_told_and_the_run_goes_on(held: Held, since: str, caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS.md rows 6 and 7."""
    caplog.set_level("INFO", "pi0q")
    assert held.owner.move(transition.running(held.epoch, text="trainer 7", started_ms=None))
    held.owner.report({"step": 20, "checkpoint": SAVED})
    held.older({"queued": held.queued, "claimed": held.claimed, "nothing": {}}[since])
    held.now = 200.0
    assert held.owner.report({"step": 21}, log="line\n").end == ""
    assert held.lease.since == 200.0 and not held.lease.revoked
    if since != "claimed":  # that server knows the claim, so there is nothing to restore
        assert held.owner.restored == 1 and "older data" in caplog.text
        assert held.store.get(held.job).checkpoint == SAVED
    assert held.store.get(held.job).step == 21
    assert not held.store.waiting(), "its message waits for nobody any more"


def test_an_older_server_hears_of_the_end_as_well(held: Held) -> None:
    assert held.owner.move(transition.running(held.epoch, text="trainer 7", started_ms=None))
    held.older({})
    record = held.owner.known
    assert held.owner.move(transition.ended(record, held.epoch, Reason.FINISHED, "reached step 9")) is State.SUCCEEDED
    assert held.store.get(held.job).detail == "reached step 9"


def test_a_server_that_knows_better_takes_it_away(held: Held) -> None:
    """Another box owns it under the same number: our server was the older one."""
    held.older(held.queued)
    assert held.driver.claim(held.job, "box-b") == held.epoch
    with pytest.raises(OwnershipLost):
        held.owner.report({"step": 22})
    assert held.lease.revoked and not held.lease.is_valid()
    before = held.path.read_bytes()
    held.owner.keep({"wandb_url": "https://wandb.ai/late"})
    assert held.path.read_bytes() == before, "another owner's ledger may lie there"
    assert held.store.get(held.job).step is None


def test_a_checkpoint_goes_to_the_disk_and_a_step_does_not(held: Held) -> None:
    before = held.path.stat().st_mtime_ns
    held.owner.report({"step": 5})
    assert held.path.stat().st_mtime_ns == before
    held.owner.report({"checkpoint": SAVED, "step": 20})
    known = held.on_disk()
    assert '"step": 20' in known.fields["checkpoint"] and known.fields["step"] == "20"


def test_what_could_not_be_told_is_on_the_disk_all_the_same(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    def away(*_: Any, **__: Any) -> str:
        raise redis.ConnectionError("Connection refused")

    monkeypatch.setattr(held.store, "report", away)
    with pytest.raises(redis.ConnectionError):
        held.owner.report({"wandb_run_id": "pi0q-1"})
    assert held.on_disk().fields["wandb_run_id"] == "pi0q-1"
    assert held.lease.since == 100.0 and not held.lease.revoked


def test_a_disk_that_is_full_ends_nothing(held: Held, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pi0q")
    held.owner.path = tmp_path / "nowhere" / "ledger.json"
    assert held.owner.report({"checkpoint": SAVED}).end == ""
    assert "the ledger of this run could not be written" in caplog.text


def test_its_ending_is_written_before_it_is_told(held: Held) -> None:
    held.owner.move(transition.running(held.epoch, text="trainer 7", started_ms=None))
    last = transition.ended(held.owner.known, held.epoch, Reason.TRAINER_KILLED, "SIGKILL")
    held.owner.ending(last)
    ending = held.on_disk().ending
    assert ending is not None and (ending.to, ending.reason, ending.text) == ("queued", "trainer_killed", "SIGKILL")
    assert held.store.get(held.job).state is State.RUNNING
