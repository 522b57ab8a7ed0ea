"""`pi0q up`, as a process of its own with a real server and a real Flower."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pi0q.jobs.errors import UsageError
from pi0q.jobs.state import State
from pi0q.ops.local import stack
from pi0q.ops.supervisor import Supervisor
from pi0q.queue.store import Store, heard
from tests.conftest import PATIENCE, Command, JobDriver, Running, Start
from tests.ops.conftest import NOWHERE, Web
from tests.rig.cluster import wait

QUEUE_ONLY = ("--port", "0", "--no-worker", "--no-flower", "--no-web")


def facts(home: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((home / "up.json").read_text())
    return read


def store_of(home: Path) -> Store:
    return Store(redis.Redis.from_url(facts(home)["redis_url"], decode_responses=True, socket_timeout=PATIENCE))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def up(start: Start) -> Iterator[Callable[..., Running]]:
    """Starts `pi0q up` and waits until it is."""
    started: list[Running] = []

    def up(*options: str) -> Running:
        started.append(start("up", *options, **NOWHERE))
        started[-1].until("Ctrl-C stops it")
        return started[-1]

    yield up
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGTERM)


def test_other_commands_find_the_queue_by_themselves(up: Callable[..., Running], home: Path, pi0q: Command) -> None:
    running = up(*QUEUE_ONLY)
    store = store_of(home)
    JobDriver(store).submit("grab_box")
    store.client.close()
    assert "grab_box" in pi0q("ls", **NOWHERE).stdout
    assert stat.S_IMODE((home / "up.json").stat().st_mode) == 0o600
    assert running.end(signal.SIGTERM) == 0
    gone = pi0q("ls", **NOWHERE)
    assert (gone.returncode, gone.stdout) == (4, "")
    assert "pi0q up" in gone.stderr


def test_what_it_says_is_enough_to_come_from_elsewhere(up: Callable[..., Running], home: Path) -> None:
    said = "".join(up("--port", "0", "--flower-port", "0", "--web-port", "0", "--no-worker").said)
    url = facts(home)["redis_url"]
    assert url not in said and f"export PI0Q_REDIS_URL=<redis_url in {home / 'up.json'}>" in said
    assert f"-L {url.rpartition(':')[2].partition('/')[0]}:127.0.0.1:" in said
    assert facts(home)["flower_url"] in said
    assert facts(home)["web_url"] in said
    for password in (home / "flower.password", home / "web.password"):
        assert str(password) in said and password.read_text().strip() not in said


def test_a_second_one_harms_nothing_and_says_the_same(up: Callable[..., Running], home: Path, pi0q: Command) -> None:
    first = up(*QUEUE_ONLY)
    before = facts(home)
    second = pi0q("up", "--port", "0", **NOWHERE)
    assert second.returncode == 0
    assert "already up" in second.stdout
    assert str(home / "up.json") in second.stdout
    # No terminal: a log or a journal keeps no password.
    assert before["redis_url"] not in second.stdout
    assert facts(home) == before
    assert first.process.poll() is None


def test_jobs_and_address_are_kept_between_starts(up: Callable[..., Running], home: Path) -> None:
    first = up(*QUEUE_ONLY)
    url = facts(home)["redis_url"]
    store = store_of(home)
    job = JobDriver(store).submit("grab_box")
    store.client.close()
    assert first.end(signal.SIGINT) == 0
    up("--no-worker", "--no-flower", "--no-web")
    assert facts(home)["redis_url"] == url
    again = store_of(home)
    assert again.get(job).name == "grab_box"
    again.client.close()


def test_a_server_that_dies_is_told_and_started_again(up: Callable[..., Running], home: Path) -> None:
    running = up("--port", "0", "--flower-port", "0", "--web-port", "0", "--no-worker")
    store = store_of(home)
    driver = JobDriver(store)
    before = driver.submit()
    os.kill(int(store.client.info("server")["process_id"]), signal.SIGKILL)
    running.until("The queue's server ended with -9")
    running.until("Restarting in 1 s")
    running.until("The queue's server runs again")
    after = driver.submit()
    store.client.close()
    web = Web(facts(home)["flower_url"], home, running)
    give_up = time.monotonic() + PATIENCE
    while set(json.loads(web.get("/api/tasks")[1])) != {before, after}:
        assert time.monotonic() < give_up, "Flower did not find the queue again"
        time.sleep(0.2)


def test_without_a_box_the_queue_is_mended_all_the_same(start: Start, home: Path) -> None:
    """The only box is gone for good, and only `pi0q up --no-worker` is there to see it."""
    running = start("up", *QUEUE_ONLY, **NOWHERE, PI0Q_LEASE_SECONDS="3")
    running.until("Ctrl-C stops it")
    store = store_of(home)
    driver = JobDriver(store)
    job = driver.submit()
    changes = store.subscribe("changes")
    driver.run(job)
    driver.let_lease_run_out(job)
    give_up = time.monotonic() + PATIENCE
    while store.get(job).state is not State.QUEUED:
        assert time.monotonic() < give_up, "nobody took it back"
        list(heard(changes, 1.0))
    assert str(store.get(job).reason) == "lease_expired"
    changes.close()
    store.client.close()
    assert running.end(signal.SIGTERM) == 0


def test_killed_it_leaves_nothing_behind_that_hinders_the_next(up: Callable[..., Running], home: Path) -> None:
    first = up("--port", "0", "--flower-port", "0", "--web-port", "0", "--no-worker")
    store = store_of(home)
    job = JobDriver(store).submit("grab_box")
    store.client.close()
    first.process.kill()
    first.process.wait()
    second = up("--no-worker", "--no-flower", "--no-web")
    assert facts(home)["pid"] == second.process.pid
    again = store_of(home)
    assert again.get(job).name == "grab_box"
    again.client.close()


@pytest.mark.parametrize("option", ["--port", "--flower-port", "--web-port"])
def test_a_taken_port_is_an_error_in_words(pi0q: Command, home: Path, option: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        refused = pi0q("up", "--port", "0", "--no-worker", option, port, **NOWHERE)
    assert refused.returncode == 2
    assert f"Port {port} of this machine is taken" in refused.stderr
    assert f"Fix: choose another with {option}" in refused.stderr
    assert not (home / "up.json").exists()


def test_a_server_named_in_the_environment_is_pointed_out(start: Start) -> None:
    running = start("up", *QUEUE_ONLY, PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    running.until("PI0Q_REDIS_URL names another server")
    running.until("Ctrl-C stops it")
    assert running.end(signal.SIGTERM) == 0


def test_a_part_that_is_not_installed_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=r"pi0q\[worker,flower\].*--no-worker --no-flower"):
        stack.require(stack.StackOptions())
    stack.require(stack.StackOptions(worker=False, flower=False))


def test_child_reports_its_end_with_the_end_of_its_log_and_its_restart(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("first\nlast words\n")
    now, starts, said = [0.0], [["false"], ["sleep", "60"]], list[str]()

    def spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen(starts.pop(0), start_new_session=True)

    child = stack.Child(name="worker", log=log, supervisor=Supervisor(spawn, clock=lambda: now[0]))
    child.tick(said.append)
    process = child.supervisor.process
    assert process is not None and process.wait(PATIENCE) == 1 and child.ended and said == []
    child.tick(said.append)
    assert said == [f"The worker ended with 1. The end of {log}:\n  first\n  last words\nRestarting in 1 s."]
    now[0] += 1
    child.tick(said.append)
    assert said[1:] == ["The worker runs again."] and not child.ended
    child.stop(PATIENCE)
    assert child.supervisor.process is None


def test_child_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    def spawn() -> subprocess.Popen[bytes]:
        raise UsageError("Another server still works on it.")

    said = list[str]()
    stack.Child(name="worker", log=tmp_path / "log", supervisor=Supervisor(spawn)).tick(said.append)
    assert said == ["Another server still works on it.\nRestarting in 1 s."]


def test_messenger_runs_where_services_are_named(start: Start, home: Path) -> None:
    """The address is a secret: it stands neither on the terminal nor in the log."""
    running = start("up", *QUEUE_ONLY, **NOWHERE, PI0Q_NOTIFY="lab=json://127.0.0.1:9/s3cret")
    running.until("Ctrl-C stops it")
    log = home / "logs" / "notify.log"
    wait(lambda: log.exists() and "go to lab" in log.read_text(), "the messenger")
    assert running.end(signal.SIGTERM) == 0
    assert "s3cret" not in running.text + log.read_text()
