"""`pi0q up`: server, worker, web page and Flower of one machine, started, supervised and stopped together."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pi0q.jobs.errors import UsageError
from pi0q.ops import file_edits
from pi0q.ops.local import demo_data, page_part, sweeper
from pi0q.ops.local import server as servers
from pi0q.ops.power import state_file as power_state
from pi0q.ops.server import registry, users
from pi0q.ops.server.backup.keeper import BackupKeeper
from pi0q.ops.supervisor import Failed, Supervisor, log_tail
from pi0q.queue import tls
from pi0q.queue.settings import Settings, make_home
from pi0q.workers.host import files, process_limits
from pi0q.workers.runs.run_directory import live_runs

DEFAULT_PORT = 6389
DEFAULT_FLOWER_PORT = 5555
#: Seconds between two checks of the children.
CHECK_SECONDS = 0.5
#: Seconds that worker and pages have to stop after SIGTERM.
STOP_SECONDS = 15.0
#: Seconds that a second `pi0q up` waits for the first to write how to reach it.
REACH_SECONDS = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """The options of `pi0q up`."""

    #: Port of the server; None for the one it had, else the first free one from DEFAULT_PORT on.
    port: int | None = None
    #: Port of Flower, likewise.
    flower_port: int | None = None
    #: Jobs that the worker runs at a time; None leaves it to `pi0q worker`.
    slots: int | None = None
    worker: bool = True
    flower: bool = True
    page: page_part.PageOptions = field(default_factory=page_part.PageOptions)
    #: Whether stand-ins for the quickstart job are made, and the worker runs on them alone.
    demo: bool = False


@dataclass(frozen=True, kw_only=True)
class Child:
    """One part of the stack: a supervised process that is restarted when it ends."""

    name: str
    log: Path
    supervisor: Supervisor
    #: Return what else is known of why it ended, as further lines; "" for nothing.
    explain: Callable[[], str] = str

    def tick(self, say: Say) -> None:
        """Start it if it is due, and report its end, a start that failed, and a restart."""
        change = self.supervisor.tick()
        if isinstance(change, Failed):
            say(f"{self._reason(change)}\nRestarting in {change.delay:.0f} s.")
        elif change and change.again:
            say(f"The {self.name} runs again.")

    def _reason(self, failed: Failed) -> str:
        if failed.exit_code is None:
            return failed.error
        tail = "".join(f"\n  {line}" for line in log_tail(self.log))
        return f"The {self.name} ended with {failed.exit_code}. The end of {self.log}:{tail}{self.explain()}"

    @property
    def ended(self) -> bool:
        """Whether its process has ended and was not restarted yet."""
        process = self.supervisor.process
        return process is not None and process.poll() is not None

    def stop(self, seconds: float) -> None:
        """End it and everything in its process group."""
        if process := self.supervisor.release():
            servers.end(process, seconds)


def run(settings: Settings, options: StackOptions, say: Say, stopping: threading.Event) -> None:
    """Start the stack, say how to reach it, and supervise it until `stopping`. Raises Pi0qError."""
    require(options, notify=bool(settings.notify))
    process_limits.forbid_core_dumps()
    home = settings.home
    make_home(settings)
    files.make_private(home)
    with _only_one(home) as alone:
        if not alone:
            say(
                "pi0q is already up here; nothing was started.\n"
                + reach(settings, _read_facts(home, stopping), show_secrets=sys.stdout.isatty())
            )
            return
        say(f"Starting pi0q in {home} …")
        children: list[Child] = []
        try:
            extra = demo_data.prepare(settings, say) if options.demo and options.worker else {}
            facts = _start(settings, options, children, say, worker_env=extra)
            file_edits.write(home / "up.json", json.dumps(facts), 0o600)
            sweeper.Sweeper(settings_of_owner(settings, facts), stopping).start()
            BackupKeeper(settings_of_owner(settings, facts), stopping, say).start()
            _await_pages(children, facts, stopping)
            file_edits.write(home / "up.json", json.dumps(facts | {"ready": True}), 0o600)
            say("pi0q is up.\n" + reach(settings, facts, show_secrets=sys.stdout.isatty()) + "\nCtrl-C stops it.")
            while not stopping.wait(CHECK_SECONDS):
                for child in children:
                    child.tick(say)
        finally:
            _stop(settings, children, say)


def require(options: StackOptions, *, notify: bool = False) -> None:
    """Raise UsageError if a requested part is not installed: it would only end again and again."""
    parts = {"worker": ("celery", options.worker), "flower": ("flower", options.flower)}
    if notify:
        parts["notify"] = ("apprise", True)
    missing = [part for part, (module, asked) in parts.items() if asked and find_spec(module) is None]
    if missing:
        raise UsageError(
            f"The packages for {' and '.join(missing)} are not installed here. Nothing was started.\n"
            f"Fix: pip install 'pi0q[{','.join(missing)}]', or leave it out: "
            + " ".join(f"--no-{part}" for part in missing)
        )


def _start(
    settings: Settings, options: StackOptions, children: list[Child], say: Say, *, worker_env: Mapping[str, str]
) -> dict[str, Any]:
    """Start all parts, the server first, and add them to `children`; return the content of up.json."""
    home, logs = settings.home, settings.home / "logs"
    logs.mkdir(exist_ok=True)
    data, log = home / "server", logs / "server.log"
    port = _sticky_port(data, options.port, say)
    flower_port = _flower_port(options, say)
    page = page_part.plan(home, options.page, say)
    registry.name_local_box(settings)
    first = servers.start(data, port=port, log=log)
    server = Supervisor(lambda: servers.start(data, port=port, log=log).process)
    server.adopt(first.process)
    children.append(Child(name="queue's server", log=log, supervisor=server, explain=lambda: servers.full_disk(data)))
    as_user = partial(_environment, first, home)
    if options.worker:
        slots = [] if options.slots is None else ["--slots", str(options.slots)]
        children.append(_verb("worker", ["worker", *slots], as_user(users.LOCAL_BOX) | dict(worker_env), logs))
    facts = {"redis_url": first.url, "pid": os.getpid(), "flower_url": None, "flower_user": None}
    if page is not None:
        # The server itself lets a page that changes nothing only read.
        reader = users.PAGE if page.actions else users.MESSENGER
        children.append(_verb("web page", page.words, as_user(reader), logs))
        facts |= page.facts
    if flower_port is not None:
        from pi0q.ops.flower import app as flower

        flower.password(home)
        children.append(_verb("Flower", ["flower", "--port", str(flower_port)], as_user(users.PAGE), logs))
        facts |= {"flower_url": f"http://127.0.0.1:{flower_port}", "flower_user": flower.USER}
    children += _keepers(settings, as_user, logs)
    for child in children:
        child.tick(say)
    return facts


def _keepers(settings: Settings, as_user: Callable[[str], Mapping[str, str]], logs: Path) -> Iterator[Child]:
    """Yield the processes that send messages, start boxes and search, as far as they are set up."""
    if settings.notify:
        yield _verb("messenger", ["notify"], as_user(users.MESSENGER), logs)
    if power_state.is_set_up(settings.home):
        yield _verb("power keeper", ["power", "run"], as_user(users.OWNER), logs)
    if find_spec("optuna") is not None:
        yield _verb("searcher", ["search"], as_user(users.OWNER), logs)


def _flower_port(options: StackOptions, say: Say) -> int | None:
    """Return the port that Flower gets; None without Flower."""
    if not options.flower:
        return None
    given = options.flower_port
    port = servers.choose_port(given, default=DEFAULT_FLOWER_PORT, option="--flower-port")
    if given is None and port != DEFAULT_FLOWER_PORT:
        say(f"Port {DEFAULT_FLOWER_PORT} is taken; Flower gets {port}.")
    return port


def _environment(server: servers.Server, home: Path, user: str) -> dict[str, str]:
    """Return the environment of a part that asks the server as this user."""
    own = {"PI0Q_HOME": str(home), "PI0Q_REDIS_URL": server.url_of(user)}
    return {**os.environ, **own, **server.tls_of(user)}


def settings_of_owner(settings: Settings, facts: Mapping[str, Any]) -> Settings:
    """Return the settings by which `pi0q up` itself asks its server."""
    url = str(facts["redis_url"])
    own = settings.home / "server" / users.TLS / users.OWNER
    return replace(settings, redis_url=url, tls=own if tls.wanted(url) else settings.tls)


def _await_pages(children: Sequence[Child], facts: Mapping[str, Any], stopping: threading.Event) -> None:
    """Wait until both pages listen: users open them as soon as an address is printed. Failures: see `Child.tick`."""
    give_up = time.monotonic() + REACH_SECONDS
    waits = [int(str(url).rpartition(":")[2]) for name in ("web_url", "flower_url") if (url := facts.get(name))]
    while waits and time.monotonic() < give_up and not stopping.wait(servers.POLL_SECONDS):
        if any(child.ended for child in children):
            return
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", waits[0]), timeout=1).close()
            waits.pop(0)


def _sticky_port(data: Path, given: int | None, say: Say) -> int:
    """Return the requested port, or the last one: runs that outlived the last `pi0q up` look for the server there."""
    kept = data / "port"
    had = int(kept.read_text()) if kept.is_file() and kept.read_text().isdigit() else DEFAULT_PORT
    port = servers.choose_port(given, default=had, option="--port")
    if given is None and port != had:
        say(f"Port {had} is taken; the queue's server gets {port}.")
    data.mkdir(exist_ok=True)
    kept.write_text(str(port))
    return port


def _verb(name: str, args: Sequence[str], env: Mapping[str, str], logs: Path) -> Child:
    """Return a child that runs a command of pi0q."""
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

    return Child(name=name, log=log, supervisor=Supervisor(start))


def _stop(settings: Settings, children: list[Child], say: Say) -> None:
    """Stop all parts; the server last, so that the others can still report to it."""
    (settings.home / "up.json").unlink(missing_ok=True)
    if not children:
        return
    running = (
        " The running training continues without its queue until its lease is about to expire; then it saves and "
        "stops. Start pi0q again before that to keep it running."
    )
    say("Stopping." + (running if live_runs(settings.runs) else ""))
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
    """Yield whether this is the only `pi0q up` of this home; inside the block it stays the only one."""
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


def is_up(home: Path) -> bool:
    """Return whether a `pi0q up` of this home runs."""
    if not (home / "up.lock").exists():
        return False
    with _only_one(home) as alone:
        return not alone


def _read_facts(home: Path, stopping: threading.Event) -> dict[str, Any]:
    """Return the up.json of the running `pi0q up`; wait for one that has just been started."""
    give_up = time.monotonic() + REACH_SECONDS
    while time.monotonic() < give_up and not stopping.wait(CHECK_SECONDS):
        with suppress(OSError, ValueError):
            facts: dict[str, Any] = json.loads((home / "up.json").read_text(encoding="utf-8"))
            return facts
    raise UsageError(f"Another `pi0q up` of {home} is starting or stopping. Nothing was started; try again soon.")


def reach(settings: Settings, facts: Mapping[str, Any], *, show_secrets: bool) -> str:
    """Return how to reach a running stack from this machine and from another one.

    `show_secrets`: with the passwords; for a terminal, and never for a file or a journal.
    """
    url = str(facts["redis_url"])
    port = url.rpartition(":")[2].partition("/")[0]
    ports = [port]
    lines = ["", "On this machine the other commands find it by themselves:  pi0q submit FILE, pi0q ls"]
    other = settings.sources.get("redis_url", "up.json")
    if not other.endswith("up.json"):
        lines.append(f"  … but {other} names another server here, and they would use that one.")
    if settings.sources.get("home"):
        lines.append(f"  … where PI0Q_HOME={settings.home} is set, as it is here.")
    if facts.get("web_url"):
        ports.append(str(facts["web_url"]).rpartition(":")[2])
        lines += ["", f"Web page   {facts['web_url']}", f"  user     {facts['web_user']}"]
        secret = settings.home / "web.password"
        lines.append(f"  password {_read(secret) if show_secrets else f'in {secret}'}")
    if facts.get("flower_url"):
        ports.append(str(facts["flower_url"]).rpartition(":")[2])
        lines += ["", f"Flower     {facts['flower_url']}", f"  user     {facts['flower_user']}"]
        secret = settings.home / "flower.password"
        lines.append(f"  password {_read(secret) if show_secrets else f'in {secret}'}")
    tunnel = " ".join(f"-L {p}:127.0.0.1:{p}" for p in ports)
    lines += ["", "On another machine, open a tunnel to this one:", f"  ssh -N {tunnel} USER@THIS-MACHINE"]
    shown = url if show_secrets else f"<redis_url in {settings.home / 'up.json'}>"
    if f"//{users.OWNER}:" in url:
        shown = "…, as `pi0q server add-box` or `add-user` here gives it to each box and person"
    lines += ["and there", f"  export PI0Q_REDIS_URL={shown}", "", f"Logs are in {settings.home / 'logs'}."]
    return "\n".join(lines)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip()
    return f"in {path}"
