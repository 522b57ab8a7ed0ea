"""The backup of the records: what it reports as damage, and what `pi0q server restore` brings back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.errors import BadRecord, UsageError
from pi0q.ops.checks.finding import CheckTarget
from pi0q.ops.checks.server import check
from pi0q.ops.machine import Machine
from pi0q.ops.server.backup import journal
from pi0q.ops.server.backup.damage import Kept, damage_of, repair
from pi0q.ops.server.backup.journal import Journal
from pi0q.ops.server.backup.keeper import ROUND_SECONDS, BackupKeeper
from pi0q.ops.server.backup.restore import Restorer
from pi0q.queue import damage_report, settings
from pi0q.queue.retention import Retention
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

JOB = "0123456789ab"
GOOD = {
    "id": JOB,
    "name": "grab_box",
    "state": "queued",
    "created_ms": "1700000000000",
    "epoch": "2",
    "spec": "{}",
    "needs": '{"gpus": 1, "vram_mib": 100, "disk_mib": 10}',
    "step": "7",
}


class Keeper(BackupKeeper):
    """The thread's work, a round at each look."""

    def look_at_all(self) -> dict[str, str]:
        self._round, self._round_at = [], -ROUND_SECONDS
        self.look()
        return self.damage


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "server").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def keeper(chosen: Settings, home: Path, said: list[str], server: object) -> Iterator[Keeper]:
    url = getattr(server, "url", "")
    made = Keeper(replace(chosen, home=home, redis_url=url), threading.Event(), said.append)
    yield made
    made.close()


Restored = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def restored(store: Store, home: Path) -> Restored:
    """Restores jobs from the newest backup; each with what became of it."""

    def restored(*jobs: str) -> list[tuple[str, str]]:
        restorer = Restorer(store, home / "server")
        found = restorer.restore(restorer.jobs(jobs), text="restored by ada@laptop")
        return [(one.job, one.result) for one in found if jobs or one.result != "good"]

    return restored


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"step": "9000", "state": "running", "epoch": "3", "box": "box-a"}, ""),
        ({"state": "bogus"}, "its field state is not"),
        ({"epoch": "nan"}, "its field epoch is not a whole number"),
        ({"name": ""}, "its field name is missing"),
        ({"spec": '{"a": 1}'}, "its job file is not the one that was submitted"),
        ({"epoch": "1"}, "its claim number went back from 2 to 1"),
    ],
)
def test_damage_is_told_from_what_a_job_does(changes: dict[str, str], told: str) -> None:
    known = Kept(fields=GOOD).mark
    found = damage_of(JOB, {**GOOD, **changes}, known, removed=False)
    assert found.startswith(told) and bool(found) == bool(told)


def test_a_record_that_is_gone_is_damage_unless_an_admin_removed_it() -> None:
    known = Kept(fields=GOOD).mark
    assert damage_of(JOB, {}, known, removed=False) == "its record is gone"
    assert damage_of(JOB, {}, known, removed=True) == damage_of(JOB, {}, None, removed=False) == ""


def test_nothing_leaves_its_end() -> None:
    known = Kept(fields={**GOOD, "state": "succeeded"}).mark
    assert damage_of(JOB, {**GOOD, "epoch": "3"}, known, removed=False) == "it had succeeded, and now it is queued"


def test_a_repair_writes_what_is_damaged_and_leaves_what_is_newer() -> None:
    kept = Kept(fields=GOOD)
    plan = repair(JOB, {**GOOD, "step": "9000", "needs": "[]"}, kept)
    assert plan and dict(plan.fields) == {"needs": GOOD["needs"]}
    whole = repair(JOB, {}, kept)
    assert whole and dict(whole.fields) == GOOD
    assert repair(JOB, {**GOOD, "step": "9000"}, kept) is None
    with pytest.raises(BadRecord):
        repair(JOB, {}, Kept(fields={**GOOD, "needs": "[]"}))


def test_the_keeper_reports_damage_and_the_restore_ends_it(
    keeper: Keeper, store: Store, driver: JobDriver, restored: Restored, said: list[str], home: Path
) -> None:
    waiting, gone, changed, healthy = (driver.submit(name) for name in ("waiting", "gone", "changed", "healthy"))
    ended = driver.submit("ended")
    driver.run(ended)
    assert store.cancel(ended, text="enough")
    assert keeper.look_at_all() == {} and damage_report.read(home) == {}
    p, client = store.prefix, store.client
    client.hset(f"{p}job:{waiting}", "state", "bogus")
    client.hdel(f"{p}job:{gone}", *store.raw(gone))
    client.zrem(f"{p}live", gone)
    client.hset(f"{p}job:{changed}", "spec", '{"train": {}}')
    damage = keeper.look_at_all()
    assert set(damage) == {waiting, gone, changed} and damage_report.read(home) == damage
    assert "was damaged: its record is gone" in "".join(said) and f"Fix: pi0q server restore {gone}" in "".join(said)
    assert set(restored()) == {(waiting, "back"), (gone, "back"), (changed, "back")}
    assert restored(healthy) == [(healthy, "good")]
    assert keeper.look_at_all() == {} and damage_report.read(home) == {}
    assert store.get(gone).history[-1].text == "restored by ada@laptop: its record is gone"
    # Each waits where a box finds it, once.
    for job in (waiting, gone, changed, healthy):
        assert driver.claim(job, "box-a") == 1, job
    client.delete(f"{p}swept")
    assert store.sweep() == [] and store.waiting() == []


def test_an_ended_job_that_was_made_to_wait_again_ends_as_it_had(
    keeper: Keeper, store: Store, driver: JobDriver, restored: Restored
) -> None:
    job = driver.submit()
    store.cancel(job, text="enough")
    keeper.look_at_all()
    store.client.hset(f"{store.prefix}job:{job}", "state", "queued")
    store.client.zadd(f"{store.prefix}live", {job: 1})
    store.client.delete(f"{store.prefix}swept")
    store.sweep()
    assert keeper.look_at_all() == {job: "it had been cancelled, and now it is queued"}
    assert restored() == [(job, "back")]
    assert store.get(job).state == "cancelled" and store.waiting() == []


def test_what_an_admin_removes_is_no_damage(
    keeper: Keeper, store: Store, driver: JobDriver, restored: Restored
) -> None:
    job = driver.submit()
    store.cancel(job, text="enough")
    keeper.look_at_all()
    assert store.prune(Retention(days=None, jobs=0)) == [job]
    assert restored() == []
    assert keeper.look_at_all() == {} and restored() == []


def test_a_job_that_a_box_has_under_a_later_claim_is_left_alone(
    keeper: Keeper, store: Store, driver: JobDriver, home: Path
) -> None:
    job = driver.submit()
    keeper.look_at_all()
    kept = store.raw(job)
    driver.run(job)
    seen = {"state": store.raw(job)["state"]}
    assert store.put_back(job, seen, kept, [], text="restored") == "owned"
    assert store.put_back(job, {"state": "queued"}, kept, [], text="restored") == "changed"
    assert store.get(job).state == "running"


def test_the_backup_goes_on_after_a_torn_line_and_begins_anew_each_day(tmp_path: Path) -> None:
    first = Journal(tmp_path, 1_000_000.0)
    first.add(JOB, Kept(fields=GOOD, history=("{}",)))
    first.add("f" * 12, Kept(fields={**GOOD, "id": "f" * 12}))
    first.remove("f" * 12)
    first.close()
    (path,) = journal.files(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    with path.open("ab") as file:
        file.write(b'{"id": "0123456789ab", "fie')
    again = Journal(tmp_path, 1_000_001.0)
    assert set(again.marks) == {JOB} and again.marks[JOB] == Kept(fields=GOOD).mark
    for day in range(1, journal.FILES + 4):
        again.add(JOB, Kept(fields={**GOOD, "step": str(day)}))
        again.flush(1_000_000.0 + day * 90_000)
    assert len(journal.files(tmp_path)) == journal.FILES
    newest = journal.files(tmp_path)[0]
    kept = journal.kept_at(newest, journal.read(newest)[JOB])
    assert kept and kept.fields["step"] == str(journal.FILES + 3)
    again.close()


def test_a_backup_without_a_job_can_be_read_from_the_beginning(tmp_path: Path) -> None:
    """`pi0q server restore` just after the first `pi0q up`."""
    fresh = Journal(tmp_path, 0.0)
    assert journal.read(fresh.path) == {}
    fresh.close()


def test_a_file_that_is_no_backup_and_a_job_that_it_lacks_are_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="There is no backup"):
        Restorer(store, tmp_path)
    (tmp_path / "x").write_text(json.dumps({"pi0q": "something else"}))
    with pytest.raises(UsageError, match="is no backup of pi0q"):
        Restorer(store, tmp_path, chosen=tmp_path / "x")
    Journal(tmp_path, 1.0).close()
    with pytest.raises(UsageError, match="holds no job 'abc'"):
        Restorer(store, tmp_path).jobs(["abc"])


def test_the_command_restores_and_says_what_it_did(
    keeper: Keeper, store: Store, driver: JobDriver, home: Path, call: Command
) -> None:
    own = {"PI0Q_HOME": str(home)}
    answer = call("server", "restore", **own)
    assert answer.returncode == 2 and f"No server of {home} runs on this machine. Nothing was changed." in answer.stderr
    (home / "up.json").write_text(json.dumps({"redis_url": keeper_url(keeper)}))
    answer = call("server", "restore", **own)
    assert answer.returncode == 2 and "There is no backup in" in answer.stderr
    job, other = driver.submit(), driver.submit("other")
    keeper.look_at_all()
    answer = call("server", "restore", **own)
    assert answer.returncode == 0 and "is missing or damaged. Nothing was changed." in answer.stdout
    store.client.hset(f"{store.prefix}job:{job}", "state", "bogus")
    told = keeper.look_at_all()[job]
    chosen = settings.load({**own, "PI0Q_REDIS_URL": keeper_url(keeper), "PI0Q_PREFIX": store.prefix})
    found = check(CheckTarget(machine=Machine(), settings=chosen))
    finding = next(one for one in found if one.name == "backup")
    assert job in finding.detail and finding.cure == "pi0q server restore"
    assert call("server", "restore", job[:8], **own).stdout == f"{job}  restored: {told}\n"
    assert call("server", "restore", other, **own).stdout == f"{other}  is as it should be; nothing was changed\n"
    answer = call("server", "restore", "--json", "--from", str(home / "nothing"), **own)
    assert answer.returncode == 2 and "No such file" in answer.stderr


def keeper_url(keeper: Keeper) -> str:
    kwargs = keeper.store.client.connection_pool.connection_kwargs
    user, secret, port = kwargs.get("username") or "", kwargs["password"], kwargs["port"]
    return f"redis://{user}:{secret}@127.0.0.1:{port}/0"
