"""Addresses of the server: which can't be read, and that no part of a password is ever shown."""

from __future__ import annotations

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.ops.local import server as servers
from pi0q.queue import connection, server_address
from pi0q.queue.settings import Settings, load
from tests.conftest import Command

#: Passwords whose special characters are not written %XX; each part of them that could be shown is `s3cret` or `word`.
UNREADABLE = [
    "redis://:p@s3cret#word@127.0.0.1:6379/0",
    "redis://:p@s3cret/word@127.0.0.1:6379/0",
    "redis://:p@s3cret?word@127.0.0.1:6379/0",
    "redis://:s3cret#word@127.0.0.1:6379/0",
    "redis://:s3cret/word@127.0.0.1:6379/0",
    "redis://:s3cret?word@127.0.0.1:6379/0",
    "redis://ada:s3cret@word/x@127.0.0.1:6379/0",
    "redis://ada:s3cret:word#x@127.0.0.1",
    "redis://:s3cret[word]@127.0.0.1:6379/0",
    "redis://:s3cret word@127.0.0.1:6379/0",
    "redis://:s3cret\tword@127.0.0.1:6379/0",
    "rediss://:p@s3cret#word@queue.example:6380/0",
    "redis://:s3cret/word@queue.example",
    "unix://:s3cret#word@/run/redis.sock",
    "redis://127.0.0.1:s3cretword/0",
    "redis://s3cret/word",
    "redis://127.0.0.1:6379/0#s3cretword",
    "redis://127.0.0.1:6379/0?password=p@s3cretword",
]
#: The same passwords as they are meant to be written, and others that are no trouble.
READABLE = [
    "redis://:p%40s3cret%23word@127.0.0.1:6379/0",
    "redis://ada:s3cret%2Fword%3F@127.0.0.1:6379/0",
    "redis://:s3cret@word@127.0.0.1:6379/0",
    "redis://:s3cret:word!$&'()*+,;=~@127.0.0.1:6379/0",
    "redis://:s3cret密码@queue.example:6379/15",
    "redis://[::1]:6379/0",
    "redis://127.0.0.1",
    "redis://127.0.0.1:6379/",
    "rediss://:s3cret@queue.example:6380/0?ssl_ca_certs=/etc/ca.pem",
    "redis://127.0.0.1:6379?db=3&password=s3cret",
    "unix://ada:s3cret@/run/redis.sock?db=1",
]


@pytest.mark.parametrize("url", UNREADABLE)
def test_check_refuses_special_characters_and_says_how_to_write_them(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        server_address.check(url)
    settings = Settings(redis_url=url, sources={"redis_url": "PI0Q_REDIS_URL"})
    for client in (connection.connect, connection.connect_briefly):
        with pytest.raises(UsageError) as refused:
            client(settings)
        hides(str(refused.value))
    with pytest.raises(UsageError) as refused:
        load({"PI0Q_REDIS_URL": url, "HOME": "/nowhere"})
    hides(str(refused.value))


@pytest.mark.parametrize("url", READABLE)
def test_check_takes_what_means_what_it_says(url: str) -> None:
    server_address.check(url)
    assert "s3cret" not in server_address.shown(url) and "word" not in server_address.shown(url)
    with connection.connect(Settings(redis_url=url)) as client:
        assert client.connection_pool.connection_kwargs.get("host", "") in ("127.0.0.1", "::1", "queue.example", "")


def hides(text: str) -> None:
    assert "special characters of the password are written %XX" in text and "Fix: " in text
    assert "s3cret" not in text and "word" not in text.replace("password", "").replace("PASSWORD", "")


@pytest.mark.parametrize("url", UNREADABLE[:6])
@pytest.mark.parametrize("verb", [("ls",), ("doctor",), ("worker",)])
def test_every_command_tells_such_an_address_in_one_way(url: str, verb: tuple[str, ...], pi0q: Command) -> None:
    done = pi0q(*verb, PI0Q_REDIS_URL=url)
    assert done.returncode in (1, 2)
    assert "s3cret" not in done.stdout + done.stderr and "can't be reached" not in done.stdout + done.stderr
    assert "%XX" in done.stdout + done.stderr


def test_a_database_that_the_server_lacks_is_no_old_server(pi0q: Command, server: servers.Server) -> None:
    done = pi0q("ls", PI0Q_REDIS_URL=server.url.removesuffix("/0") + "/99")
    assert done.returncode == 4
    assert "no database of the number" in done.stderr and "6.2" not in done.stderr
