from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import redis

from pi0q.jobs.errors import QueueUnreachable, UsageError
from pi0q.ops.local import server as servers
from pi0q.queue import connection
from pi0q.queue.resp_client import RespClient
from pi0q.queue.resp_protocol import RespError
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.user_store import UserStore

from ..conftest import JobDriver


def told(url: str, act: Callable[[Store], object], prefix: str = "t:", **more: float) -> str:
    """What a user reads after `act` failed on the server at `url`, whichever client the command uses."""
    settings = Settings(redis_url=url, sources={"redis_url": "PI0Q_REDIS_URL"}, **more)  # type: ignore[arg-type]
    with pytest.raises(redis.RedisError) as failed, connection.connect(settings) as client:
        act(Store(client, prefix))
    text = explained(failed.value, settings)
    small = connection.connect_briefly(settings)
    assert isinstance(small, RespClient)
    with pytest.raises(RespError) as failed_too, contextlib.closing(small):
        act(cast(Store, UserStore(small, prefix)))
    other = explained(failed_too.value, settings)
    # Only what a client says in its own words may differ.
    assert other.splitlines()[1:] == text.splitlines()[1:]
    assert other == text or any(own in other for own in ("can't be reached: ", "do this: "))
    return text


def explained(error: redis.RedisError | RespError, settings: Settings) -> str:
    meant = connection.explain(error, settings)
    assert isinstance(meant, QueueUnreachable) and meant.exit_code == 4
    text = str(meant)
    assert ("Nothing was changed." in text) is not ("the command may have taken effect" in text)
    return text


@pytest.fixture
def other(tmp_path: Path) -> Iterator[servers.Server]:
    """A server of its own, for what must not be done to the shared one."""
    port = servers.choose_port(0, default=0, option="--port")
    started = servers.start(tmp_path / "data", port=port, log=tmp_path / "server.log")
    yield started
    started.stop()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        yield int(deaf.getsockname()[1])


def test_what_comes_back_is_text_and_garbage_does_not_end_us(server: servers.Server) -> None:
    with connection.connect(Settings(redis_url=server.url)) as client:
        assert client.echo("é") == "é"
        assert client.echo(b"\xff") == "\ufffd"


def test_nobody_there(server: servers.Server) -> None:
    port = servers.choose_port(0, default=0, option="--port")
    text = told(f"redis://ada:s3cret@127.0.0.1:{port}/0", lambda store: store.now_ms())
    assert f"redis://127.0.0.1:{port}/0 (from PI0Q_REDIS_URL) can't be reached" in text
    assert "pi0q up" in text
    assert "s3cret" not in text


def test_where_no_address_was_given_the_one_variable_is_named() -> None:
    error = connection.explain(redis.ConnectionError("no"), Settings())
    assert "set PI0Q_REDIS_URL" in str(error)


@pytest.mark.parametrize("user", ["", ":wrong@", "nobody:wrong@"])
def test_no_or_a_wrong_password(user: str, server: servers.Server) -> None:
    text = told(f"redis://{user}127.0.0.1:{server.port}/0", lambda store: store.now_ms())
    assert "refuses the user or password" in text
    assert "redis://USER:PASSWORD@HOST:PORT/0" in text
    assert "wrong" not in text


def test_a_server_that_says_nothing(silent: int) -> None:
    url = f"redis://127.0.0.1:{silent}/0"
    text = told(url, lambda store: store.now_ms(), lease_seconds=3.0)
    assert "did not answer in time" in text
    # It may have heard all the same.
    assert "the command may have taken effect" in text


@pytest.mark.refused
def test_a_user_without_the_right(server: servers.Server, store: Store) -> None:
    store.client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=["+time"])
    try:
        text = told(f"redis://reader:pw@127.0.0.1:{server.port}/0", lambda other: other.page())
    finally:
        store.client.acl_deluser("reader")
    assert "does not let this user do this" in text
    assert "Ask whoever runs the queue" in text


def test_a_server_without_memory(other: servers.Server) -> None:
    with redis.Redis.from_url(other.url) as client:
        client.config_set("maxmemory", "1")
    assert "maxmemory" in told(other.url, lambda store: JobDriver(store).submit())


def test_a_read_only_replica(other: servers.Server) -> None:
    with redis.Redis.from_url(other.url) as client:
        client.replicaof("127.0.0.1", "1")
    assert "primary" in told(other.url, lambda store: store.client.execute_command("SET", "a", "b"))  # type: ignore[no-untyped-call]
    assert "primary" in told(other.url, lambda store: JobDriver(store).submit())


def test_a_server_that_does_not_understand(server: servers.Server) -> None:
    text = told(server.url, lambda store: store.client.execute_command("NONSENSE"))  # type: ignore[no-untyped-call]
    assert "answered with an error" in text and "Redis 6.2" in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:s3cret@host:port/0",
        "redis://host:99999/0",
        "redis://:s3cret/s3cret@host:6379/0",
        "redis://:s3cret@host/0?socket_timeout=soon",
        "redis://:s3cret@host/0?no_such_option=1",
        "redis://:s3cret@a..b/0",
        "redis://[::1/0",
    ],
)
def test_an_address_that_is_none_is_a_usage_error_that_keeps_its_secret(url: str) -> None:
    settings = Settings(redis_url=url, sources={"redis_url": "PI0Q_REDIS_URL"})
    with pytest.raises(UsageError) as refused:
        connection.connect(settings)
    with pytest.raises(UsageError) as refused_too:
        connection.connect_briefly(settings)
    text = str(refused.value)
    assert str(refused_too.value) == text
    assert "PI0Q_REDIS_URL" in text and "redis://USER:PASSWORD@HOST:PORT/0" in text
    assert "s3cret" not in text
