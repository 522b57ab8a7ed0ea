"""A box that was stolen with its user of the server: what it can do, what it cannot, and that revoking ends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from pi0q.ops.server import live
from pi0q.ops.server.roles import Role
from pi0q.queue.store import Store
from tests.conftest import JobDriver
from tests.ops.server.test_roles import Users

pytestmark = pytest.mark.refused


@pytest.fixture
def users(store: Store) -> Iterator[Users]:
    users = Users(store)
    yield users
    for client in users.made:
        client.close()


@pytest.fixture
def stolen(users: Users) -> redis.Redis:
    """A connection with the password of box-a."""
    return users.add(Role.WORKER, "box-a", "box-a")


def is_refused(client: redis.Redis, *words: str) -> bool:
    try:
        live.ask(client, *words)
    except redis.exceptions.NoPermissionError:
        return True
    return False


def test_it_runs_nothing_on_another_box_and_reaches_no_administration(
    stolen: redis.Redis, store: Store, driver: JobDriver
) -> None:
    job = driver.submit()
    driver.run(job, "box-b")
    p, raw = store.prefix, str(store.raw(job)["message"])
    assert is_refused(stolen, "LPUSH", f"{p}box.box-b", raw)
    assert is_refused(stolen, "RPUSH", f"{p}box.box-b", "not a message")
    assert is_refused(stolen, "HSET", f"{p}box:box-b", "drain", "now")
    assert is_refused(stolen, "ACL", "SETUSER", "backdoor", "on", "nopass", "~*", "+@all")
    assert is_refused(stolen, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert is_refused(stolen, "EVAL", "while true do end", "0")
    assert is_refused(stolen, "FLUSHALL")
    assert is_refused(stolen, "SETRANGE", f"{p}tail:{job}", "500000000", "x")
    assert is_refused(stolen, "DEL", f"{p}job:{job}")


def test_what_it_damages_is_told_and_the_other_jobs_go_on(stolen: redis.Redis, store: Store, driver: JobDriver) -> None:
    damaged, healthy = driver.submit("first"), driver.submit("second")
    stolen.hset(f"{store.prefix}job:{damaged}", "state", "bogus")
    page = store.page()
    assert [error.job_id for error in page.broken] == [damaged]
    assert [job.id for job in page.jobs] == [healthy]
    assert driver.claim(healthy, "box-b") == 1


def test_a_revoked_box_is_out_at_once_with_every_connection(users: Users, stolen: redis.Redis, store: Store) -> None:
    second = redis.Redis(connection_pool=redis.ConnectionPool(**stolen.connection_pool.connection_kwargs))
    with second, second.pubsub() as listening:  # type: ignore[no-untyped-call]
        listening.subscribe(f"{store.prefix}changes")
        assert listening.get_message(timeout=10) and stolen.ping()
        assert live.remove_user(store.client, users.access(), "box-a") >= 2
        with pytest.raises(redis.exceptions.ConnectionError):
            while listening.get_message(timeout=10) is None:
                pass
        for client in (stolen, second):
            with pytest.raises(redis.exceptions.AuthenticationError):
                client.ping()
