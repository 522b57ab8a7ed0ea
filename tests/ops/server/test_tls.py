"""Encrypted connections: every client verifies, and who comes the other way reads what to do."""

from __future__ import annotations

import json
import re
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from pi0q.jobs.errors import UsageError
from pi0q.ops.local import server as servers
from pi0q.ops.server import binary, users
from pi0q.queue import celery_app
from pi0q.queue.connection import connect, explain
from pi0q.queue.settings import Settings
from tests.conftest import Command
from tests.ops.server.test_cli import url_of


def with_tls() -> Path | None:
    """A server of this machine that was built with TLS: Debian's is."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and binary.version_of(Path(found)) >= (7, 0) and binary.has_tls(Path(found)):
            return Path(found)
    return None


needs_tls = pytest.mark.skipif(with_tls() is None, reason="no server with TLS on PATH: apt-get install redis-server")


@pytest.fixture
def running(call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Server]:
    """A server with TLS and a user, as `pi0q up` runs it."""
    monkeypatch.setenv("PI0Q_REDIS_BIN", str(with_tls()))
    home = tmp_path / "home"
    # With a name for others it listens on every address.
    hosts = ("--host", "localhost", "--host", "queue.example")
    made = call("server", "init", "--tls", *hosts, PI0Q_REDIS_BIN=str(with_tls()))
    assert made.returncode == 0, made.stderr
    port = servers.choose_port(0, default=0, option="--port")
    (home / "server" / "port").write_text(str(port))
    started = servers.start(home / "server", port=port, log=home / "log")
    (home / "up.json").write_text(json.dumps({"redis_url": started.url}))
    assert call("server", "add-user", "ada").returncode == 0
    yield started
    started.stop()


@pytest.fixture
def ada(running: servers.Server, tmp_path: Path) -> Settings:
    """The settings of a person who was handed an address and certificates."""
    home = tmp_path / "home"
    return Settings(redis_url=url_of(home, "ada"), tls=home / "server" / "access" / "ada" / "tls")


def told(settings: Settings) -> str:
    """What a person reads whose connection fails."""
    with connect(settings) as client, pytest.raises(redis.RedisError) as raised:
        client.ping()
    return str(explain(raised.value, settings))


@needs_tls
def test_a_user_with_certificates_gets_in_and_the_mistakes_of_others_are_told(ada: Settings, tmp_path: Path) -> None:
    with connect(ada) as client:
        assert client.ping()
    assert ada.tls is not None
    assert "takes encrypted connections only" in told(replace(ada, redis_url=ada.redis_url.replace("rediss", "redis")))
    only_ca = tmp_path / "only_ca"
    only_ca.mkdir()
    shutil.copy(ada.tls / "ca.pem", only_ca)
    assert "wants a certificate of this machine" in told(replace(ada, tls=only_ca))
    assert "is not who it should be, so nothing was sent" in told(replace(ada, tls=None))
    other_name = ada.redis_url.replace("localhost", "127.0.0.2")
    assert "is not who it should be" in told(replace(ada, redis_url=other_name))


@needs_tls
def test_celery_verifies_the_server_too(ada: Settings) -> None:
    with celery_app.make(ada).connection_for_read() as link:
        link.connect()
        assert link.ssl["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    stranger = celery_app.make(replace(ada, tls=None)).connection_for_read()
    with stranger as link, pytest.raises(Exception, match="certificate verify failed"):
        link.ensure_connection(max_retries=1, interval_start=0)


@needs_tls
def test_a_command_finds_the_certificates_beside_its_settings_file(
    call: Command, ada: Settings, tmp_path: Path
) -> None:
    assert ada.tls is not None
    shutil.copytree(ada.tls, tmp_path / "config" / "pi0q" / "tls")
    answer = call("ls", PI0Q_REDIS_URL=ada.redis_url)
    assert answer.returncode == 0, answer.stderr


@needs_tls
def test_a_second_init_keeps_tls_and_the_users(call: Command, ada: Settings) -> None:
    assert call("server", "init", "--memory-mib", "64", PI0Q_REDIS_BIN=str(with_tls())).returncode == 0
    listed = json.loads(call("server", "list", "--json").stdout)
    assert listed["tls"] and listed["memory_mib"] == 64 and "ada" in [user["name"] for user in listed["users"]]
    assert call("server", "init", "--no-tls").returncode == 0
    assert not json.loads(call("server", "list", "--json").stdout)["tls"]


def test_an_encrypted_address_of_a_plain_server_is_told_apart(server: servers.Server, tmp_path: Path) -> None:
    plain = re.sub(r"^redis:", "rediss:", server.url)
    assert "answers without encryption, so nothing was sent" in told(Settings(redis_url=plain))


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false"])
def test_no_option_of_an_address_switches_verification_off(option: str) -> None:
    with pytest.raises(UsageError, match="would switch the check of the server's certificate off"):
        connect(Settings(redis_url=f"rediss://ada:secret@localhost:1/0?{option}"))


def test_a_server_without_tls_is_named_before_anything_changes(call: Command, tmp_path: Path) -> None:
    bare = tmp_path / "valkey-server"
    bare.write_text("#!/bin/sh\necho 'Valkey server v=9.1.2'\n")
    bare.chmod(0o755)
    answer = call("server", "init", "--tls", "--host", "queue.example", PI0Q_REDIS_BIN=str(bare))
    assert answer.returncode == 2 and "was built without TLS" in answer.stderr
    assert "Fix: install one that was (apt-get install redis-server)" in answer.stderr
    assert not (tmp_path / "home" / "server" / users.FILE).exists()


@pytest.mark.parametrize("words", [["--tls"], ["--tls", "--host", "a b"]])
def test_tls_needs_the_names_of_the_machine(call: Command, words: list[str], tmp_path: Path) -> None:
    assert call("server", "init", *words).returncode == 2
    assert not (tmp_path / "home" / "server" / users.FILE).exists()
