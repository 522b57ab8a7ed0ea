"""`pi0q up`: server, worker and Flower of one machine, started together, watched, and stopped together."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import Pi0qError, UsageError
from pi0q.ops import server as servers
from pi0q.ops import stored, sweeper
from pi0q.queue.settings import Settings
from pi0q.workers.run.directory import live_runs

DEFAULT_PORT = 6389
DEFAULT_FLOWER_PORT = 5555
#: Seconds between two looks at the children.
LOOK_SECONDS = 0.5
#: Seconds before a child that died is started again: doubled each time, from the first up to the second.
BACKOFF_SECONDS = (1.0, 60.0)
#: Seconds of life after which an earlier death is forgotten.
HEALTHY_SECONDS = 60.0
#: Seconds that worker and Flower have to stop after SIGTERM.
STOP_SECONDS = 15.0
#: Seconds that a second `pi0q up` waits for the first to say how to reach it.
HELLO_SECONDS = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user asked `pi0q up` for."""

    #: Port of the server; None for the one it had, else the first free one from DEFAULT_PORT on.
    port: int | None = None
    #: Port of Flower, likewise.
    flower_port: int | None = None
    #: Jobs that the worker runs at a time; None leaves it to `pi0q worker`.
    slots: int | None = None
    worker: bool = True
    flower: bool = True


@dataclass(kw_only=True)
class Child:
    """A part of the stack that is started again when it dies."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    #: Monotonic seconds: when it was started, and when it may be started again.
    started: float = 0.0
    again: float = 0.0
    delay: float = field(default=BACKOFF_SECONDS[0])

    def look(self, now: float, say: Say) -> None:
        """Starts it if it is due; tells of a death and decides when it is due again."""
        if self.process is None:
            if now >= self.again:
                try:
                    self.process, self.started = self.start(), now
                    if self.again:
                        say(f"The {self.name} runs again.")
                except (OSError, Pi0qError) as error:
                    self._later(now, f"{error}\n", say)
        elif (code := self.process.poll()) is not None:
            if now - self.started > HEALTHY_SECONDS:
                self.delay = BACKOFF_SECONDS[0]
            self.process = None
            said = "".join(f"\n  {line}" for line in servers.last_lines(self.log))
            self._later(now, f"The {self.name} ended with {code}. The end of {self.log}:{said}\n", say)

    def _later(self, now: float, what: str, say: Say) -> None:
        say(f"{what}It is started again in {self.delay:.0f} s.")
        self.again, self.delay = now + self.delay, min(2 * self.delay, BACKOFF_SECONDS[1])

    def stop(self, seconds: float) -> None:
        """Ends it and everything in its process group."""
        if self.process is not None:
            servers.end(self.process, seconds)
            self.process = None


def run(settings: Settings, wanted: Wanted, say: Say, stopping: threading.Event) -> None:
    """Starts the stack, says how to reach it, and holds it up until `stopping`. Raises Pi0qError."""
    require(wanted)
    home = settings.home
    home.mkdir(parents=True, exist_ok=True)
    with _only_one(home) as alone:
        if not alone:
            say("pi0q is already up here; nothing was started.\n" + reach(settings, _hello(home, stopping)))
            return
        say(f"Starting pi0q in {home} …")
        children: list[Child] = []
        try:
            facts = _start(settings, wanted, children, say)
            stored.write(home / "up.json", json.dumps(facts), 0o600)
            sweeper.Sweeper(replace(settings, redis_url=str(facts["redis_url"])), stopping).start()
            _await_flower(children, facts, stopping)
            say("pi0q is up.\n" + reach(settings, facts) + "\nCtrl-C stops it.")
            while not stopping.wait(LOOK_SECONDS):
                for child in children:
                    child.look(time.monotonic(), say)
        finally:
            _stop(settings, children, say)


def require(wanted: Wanted) -> None:
    """Raises UsageError where a part is wanted that is not installed: it would only die again and again."""
    parts = {"worker": ("celery", wanted.worker), "flower": ("flower", wanted.flower)}
    missing = [part for part, (module, asked) in parts.items() if asked and find_spec(module) is None]
    if missing:
        raise UsageError(
            f"What `pi0q up` needs for {' and '.join(missing)} is not installed here. Nothing was started.\n"
            f"Install it with: pip install 'pi0q[{','.join(missing)}]', or leave it out: "
            + " ".join(f"--no-{part}" for part in missing)
        )


def _start(settings: Settings, wanted: Wanted, children: list[Child], say: Say) -> dict[str, Any]:
    """Fills `children`, the server first; returns what up.json says."""
    home, logs = settings.home, settings.home / "logs"
    logs.mkdir(exist_ok=True)
    data, log = home / "server", logs / "server.log"
    port = _sticky_port(data, wanted.port, say)
    flower_port = None
    if wanted.flower:
        given = wanted.flower_port
        flower_port = servers.choose_port(given, default=DEFAULT_FLOWER_PORT, option="--flower-port")
        if given is None and flower_port != DEFAULT_FLOWER_PORT:
            say(f"Port {DEFAULT_FLOWER_PORT} is taken; Flower gets {flower_port}.")
    first = servers.start(data, port=port, log=log)
    server = Child(
        name="queue's server",
        start=lambda: servers.start(data, port=port, log=log).process,
        log=log,
    )
    server.process, server.started = first.process, time.monotonic()
    children.append(server)
    env = {**os.environ, "PI0Q_REDIS_URL": first.url, "PI0Q_HOME": str(home)}
    if wanted.worker:
        slots = [] if wanted.slots is None else ["--slots", str(wanted.slots)]
        children.append(_verb("worker", ["worker", *slots], env, logs))
    facts = {"redis_url": first.url, "pid": os.getpid(), "flower_url": None, "flower_user": None}
    if flower_port is not None:
        from pi0q.ops import flower

        flower.password(home)
        children.append(_verb("Flower", ["flower", "--port", str(flower_port)], env, logs))
        facts |= {"flower_url": f"http://127.0.0.1:{flower_port}", "flower_user": flower.USER}
    for child in children:
        child.look(time.monotonic(), say)
    return facts


def _await_flower(children: Sequence[Child], facts: Mapping[str, Any], stopping: threading.Event) -> None:
    """A person opens the page as soon as it is told. One that does not come is told of by `Child.look`."""
    give_up = time.monotonic() + HELLO_SECONDS
    while facts["flower_url"] and time.monotonic() < give_up and not stopping.wait(servers.POLL_SECONDS):
        if any(child.process and child.process.poll() is not None for child in children):
            return
        with suppress(OSError):
            port = int(str(facts["flower_url"]).rpartition(":")[2])
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return


def _sticky_port(data: Path, given: int | None, say: Say) -> int:
    """The port as wanted, or the one it had: runs that outlived the last `pi0q up` find the server there."""
    kept = data / "port"
    had = int(kept.read_text()) if kept.is_file() and kept.read_text().isdigit() else DEFAULT_PORT
    port = servers.choose_port(given, default=had, option="--port")
    if given is None and port != had:
        say(f"Port {had} is taken; the queue's server gets {port}.")
    data.mkdir(exist_ok=True)
    kept.write_text(str(port))
    return port


def _verb(name: str, args: Sequence[str], env: Mapping[str, str], logs: Path) -> Child:
    """A child that is a command of pi0q itself."""
    log = logs / f"{args[0]}.log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "pi0q.queue.cli", *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
                preexec_fn=servers.die_with_parent,
            )

    return Child(name=name, start=start, log=log)


def _stop(settings: Settings, children: list[Child], say: Say) -> None:
    """The server goes last, so that the others can still tell it what they do."""
    (settings.home / "up.json").unlink(missing_ok=True)
    if not children:
        return
    goes_on = (
        " The training that runs goes on, without its queue, until its lease nears its end; "
        "then it saves and stops. Start pi0q again before that and it never notices."
    )
    say("Stopping." + goes_on * bool(live_runs(settings.runs)))
    threads = [threading.Thread(target=child.stop, args=(STOP_SECONDS,)) for child in children[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children[:1]:
        child.stop(servers.STOP_SECONDS)
    say("Stopped; jobs and records are kept.")


@contextmanager
def _only_one(home: Path) -> Iterator[bool]:
    """Whether this is the only `pi0q up` of this home, for as long as the context lasts."""
    lock = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def _hello(home: Path, stopping: threading.Event) -> dict[str, Any]:
    """What the `pi0q up` that is there says of itself; one that has just been started says it soon."""
    give_up = time.monotonic() + HELLO_SECONDS
    while time.monotonic() < give_up and not stopping.wait(LOOK_SECONDS):
        with suppress(OSError, ValueError):
            facts: dict[str, Any] = json.loads((home / "up.json").read_text(encoding="utf-8"))
            return facts
    raise UsageError(f"Another `pi0q up` of {home} is starting or stopping. Nothing was started; try again soon.")


def reach(settings: Settings, facts: Mapping[str, Any]) -> str:
    """How to get at a stack that is up, from here and from another machine."""
    url = str(facts["redis_url"])
    port = url.rpartition(":")[2].partition("/")[0]
    ports = [port]
    lines = ["", "On this machine the other commands find it by themselves:  pi0q submit FILE, pi0q ls"]
    other = settings.sources.get("redis_url", "up.json")
    if not other.endswith("up.json"):
        lines.append(f"  … but {other} names another server here, and they would use that one.")
    if settings.sources.get("home"):
        lines.append(f"  … where PI0Q_HOME={settings.home} is set, as it is here.")
    if facts.get("flower_url"):
        ports.append(str(facts["flower_url"]).rpartition(":")[2])
        lines += ["", f"Flower     {facts['flower_url']}", f"  user     {facts['flower_user']}"]
        lines.append(f"  password {_read(settings.home / 'flower.password')}")
    tunnel = " ".join(f"-L {p}:127.0.0.1:{p}" for p in ports)
    lines += ["", "On another machine, open a tunnel to this one:", f"  ssh -N {tunnel} USER@THIS-MACHINE"]
    lines += ["and there", f"  export PI0Q_REDIS_URL={url}", "", f"Logs are in {settings.home / 'logs'}."]
    return "\n".join(lines)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip()
    return f"in {path}"


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C, SIGTERM and a closed terminal set."""
    stopping = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: stopping.set())
    return stopping
