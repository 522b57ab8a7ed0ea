"""A server that is hurt keeps what it must keep and forgets what it must forget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.rig.server import Server


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Server]:
    started = Server.start(tmp_path / "one" / "data")
    yield started
    started.stop()


def ask(server: Server, key: str) -> str | None:
    with contextlib.closing(server.client()) as client:
        return client.get(key)  # type: ignore[return-value]


def put(server: Server, key: str, value: str) -> None:
    with contextlib.closing(server.client()) as client:
        client.set(key, value)


def run_id(server: Server) -> str:
    with contextlib.closing(server.client()) as client:
        return str(client.info("server")["run_id"])


def test_paused_it_answers_nobody_and_goes_on_afterwards(one: Server) -> None:
    put(one, "a", "1")
    hasty = contextlib.closing(redis.Redis.from_url(one.url, socket_timeout=0.2))
    with hasty as client, one.paused(), pytest.raises(redis.TimeoutError):
        client.get("a")
    assert ask(one, "a") == "1"


def test_restored_it_knows_what_it_knew_then(one: Server, tmp_path: Path) -> None:
    put(one, "a", "old")
    kept = one.keep(tmp_path / "kept")
    put(one, "a", "new")
    first, url = run_id(one), one.url
    one.restore(kept)
    assert (ask(one, "a"), one.url) == ("old", url)
    assert run_id(one) != first
    put(one, "a", "newer")
    one.kill()
    one.restart()
    one.restore(kept)
    assert ask(one, "a") == "old", "what was kept stays as it was"


def test_a_promoted_replica_has_everything_and_stays_one(one: Server, tmp_path: Path) -> None:
    put(one, "a", "1")
    two = one.replica(tmp_path / "two" / "data")
    try:
        one.kill()
        with pytest.raises(redis.ReadOnlyError):
            put(two, "a", "2")
        two.promote()
        put(two, "a", "2")
        two.running.stop()
        two.restart()
        put(two, "b", "3")
        assert (ask(two, "a"), ask(two, "b")) == ("2", "3")
        assert two.port != one.port and two.url.partition("@")[0] == one.url.partition("@")[0]
    finally:
        two.stop()
