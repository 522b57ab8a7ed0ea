"""A box is stolen while others work: what it does to the queue with its own user, and how all of it is put right."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from pi0q.jobs.errors import BadRecord, NotFound
from pi0q.jobs.state import State
from pi0q.ops.server import live, passwords
from pi0q.ops.server.backup.keeper import BackupKeeper
from pi0q.ops.server.backup.restore import Restorer
from pi0q.ops.server.roles import Role
from pi0q.ops.server.users import Access, User, hashed
from pi0q.queue import damage_report, settings
from pi0q.queue.store import Store
from pi0q.queue.store_types import Claimant
from tests.rig import roles, signed
from tests.rig.cluster import Box, Cluster, wait
from tests.rig.damages import NEEDS, inject
from tests.rig.server import Server

pytestmark = pytest.mark.refused

#: As much as no box has: the job is judged and waits.
TOO_MUCH = "900TiB"
STOLEN = "box-b"


@dataclass
class Fleet:
    """A cluster on a server with roles, each box a user of its own; its owner keeps a backup."""

    cluster: Cluster
    access: Access
    home: Path

    @property
    def owner(self) -> redis.Redis:
        return self.cluster.store.client

    def box(self, name: str, **env: Any) -> Box:
        user = User(name=name, role=Role.WORKER, password_hash=hashed(secret := passwords.new()), box=name)
        live.set_user(self.owner, self.access, user)
        url = f"redis://{name}:{secret}@{urlsplit(self.cluster.server.url).netloc.rpartition('@')[2]}/0"
        return self.cluster.box(name, PI0Q_REDIS_URL=url, PI0Q_LEASE_SECONDS="30", PI0Q_WAIT_FOR_BOX="0", **env)

    def damage(self) -> dict[str, str]:
        return damage_report.read(self.home)

    def restore(self) -> dict[str, str]:
        restorer = Restorer(self.cluster.store, self.home / "server")
        found = restorer.restore(restorer.jobs(()), text="restored by ada@laptop")
        return {one.job: one.result for one in found if one.result != "good"}

    def refused_users(self) -> set[str]:
        return {str(entry["username"]) for entry in roles.refused(self.owner)}


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    config, home = tmp_path / "ada", tmp_path / "server-home"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    signed.trust(config, signed.new_user(config))
    roles.init(home / "server")
    server = Server.start(home / "server")
    cluster, stopping = Cluster(tmp_path, server), threading.Event()
    own = {"PI0Q_HOME": str(home), "PI0Q_REDIS_URL": server.url, "PI0Q_PREFIX": cluster.prefix}
    keeper = BackupKeeper(settings.load(own), stopping, lambda _: None)
    keeper.start()
    yield Fleet(cluster=cluster, access=Access(prefix=cluster.prefix, memory_mib=64), home=home)
    stopping.set()
    keeper.join()
    keeper.close()
    cluster.close()
    server.stop()


def test_what_a_stolen_box_does_is_told_and_put_right_and_its_end_is_at_once(fleet: Fleet) -> None:
    cluster = fleet.cluster
    store, p = cluster.store, cluster.prefix
    stolen = fleet.box(STOLEN)
    ended = cluster.submit("ended", steps=5)
    assert cluster.ends(ended).state is State.SUCCEEDED
    stolen.stop()
    honest = fleet.box("box-a", slots=4, FAKE_STEP_SECONDS="0.01")
    cluster.slow_down(20)
    first, second, third = (cluster.submit(name, steps=300, save_freq=10) for name in ("first", "second", "third"))
    for job in (first, second, third):
        honest.sealed(job, 10)
    waiting = cluster.submit("waiting", steps=5, disk=TOO_MUCH)
    assert "disk" in cluster.refused(waiting)
    backup = fleet.home / "server" / "backup"

    def is_kept() -> bool:
        known = "".join(path.read_text() for path in backup.glob("records-*"))
        return all(job in known for job in (ended, first, second, third, waiting))

    wait(is_kept, "all jobs in the backup")
    assert fleet.damage() == {} and fleet.refused_users() == set()

    # Its user is all that the thief has.
    thief = Store(redis.Redis.from_url(stolen.env["PI0Q_REDIS_URL"], decode_responses=True), p)
    raw = {job: store.raw(job) for job in (ended, first, second, third, waiting)}
    for key in (f"{p}job:{ended}", f"{p}live", f"{p}removed"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            thief.client.delete(key)
    with pytest.raises(redis.exceptions.NoPermissionError):
        thief.client.zadd(f"{p}removed", {ended: 1})
    forged = inject(thief, {**json.loads(raw[ended]["spec"]), "name": "forged"})
    bad = json.loads(raw[waiting]["spec"])
    bad["resources"]["disk"], bad["train"]["steps"] = "10MiB", 6
    small: dict[Any, Any] = {"spec": json.dumps(bad), "needs": json.dumps(NEEDS)}
    thief.client.hset(f"{p}job:{waiting}", mapping=small)
    thief.client.hdel(f"{p}job:{ended}", *raw[ended])
    thief.client.zrem(f"{p}ended", ended)
    thief.client.hset(f"{p}job:{first}", mapping={"state": "bogus", "needs": "[]"})
    thief.client.hdel(f"{p}job:{second}", *raw[second])
    thief.client.zrem(f"{p}live", second)
    claimant = Claimant(box=STOLEN, boot="1", lease_seconds=600.0)
    assert thief.restore(third, 99, claimant, fields={**raw[third], "epoch": "99"}, text="mine", runs=True)

    # The running ones are put right by the ledgers of their box; the backup tells of the others.
    for job in (first, second):
        _comes_back(store, job, "box-a")
    expected = {ended: "its record is gone", waiting: "its job file is not the one that was submitted"}
    wait(lambda: fleet.damage() == expected, "the damage", lambda: str(fleet.damage()))
    assert "its job file is not signed" in cluster.refused(forged)
    wait(lambda: "was changed after it was signed" in cluster.refused(waiting), "the refusal of a changed file")

    # The server closes its connections and forgets it.
    live.remove_user(fleet.owner, fleet.access, STOLEN)
    with pytest.raises(redis.exceptions.ConnectionError):
        thief.client.ping()
    assert fleet.restore() == {ended: "back", waiting: "back"}
    wait(lambda: fleet.damage() == {}, "the end of the damage", lambda: str(fleet.damage()))
    assert store.get(ended).state is State.SUCCEEDED
    wait(lambda: cluster.refused(waiting).startswith("disk"), "the old refusal", lambda: cluster.refused(waiting))
    cluster.let_lease_run_out(third)
    cluster.speed_up()
    for job in (first, second, third):
        assert cluster.ends(job).state is State.SUCCEEDED, job
        honest.trainers_came_one_by_one(job)
    assert len(honest.lives(first)) == len(honest.lives(second)) == 1
    # Nothing ran that nobody signed, and only the thief was ever refused anything.
    assert {path.stem for path in (honest.home / "lives").glob("*.jsonl")} == {first, second, third}
    assert fleet.refused_users() == {STOLEN}


def _comes_back(store: Store, job: str, box: str) -> None:
    """Waits until the job runs on this box under its first claim, by a record that can be read."""
    wait(lambda: _runs_on(store, job) == (box, 1), "its own record", lambda: str(store.raw(job)))


def _runs_on(store: Store, job: str) -> tuple[str | None, int] | None:
    """The box and the claim of a job that runs; None while its record is damaged or gone."""
    try:
        record = store.get(job)
    except (BadRecord, NotFound):
        return None
    return (record.box, record.epoch) if record.state is State.RUNNING else None
