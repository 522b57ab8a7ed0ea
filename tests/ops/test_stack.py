"""`pi0q up`, as a process of its own with a real server and a real Flower."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from pi0q.ops import stack
from pi0q.queue.store import Store

from .conftest import Box, Running, Spawn

UP = ("-m", "pi0q.queue.cli", "up")
QUEUE_ONLY = ("--port", "0", "--no-worker", "--no-flower")


def pi0q(home: Path, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PI0Q_")}
    env |= {"PI0Q_HOME": str(home), "XDG_CONFIG_HOME": str(home)} | settings
    command = [sys.executable, "-m", "pi0q.queue.cli", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def facts(home: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((home / "up.json").read_text())
    return read


def store_of(home: Path) -> Store:
    return Store(redis.Redis.from_url(facts(home)["redis_url"], decode_responses=True, socket_timeout=5))


@pytest.fixture
def up(spawn: Spawn) -> Callable[..., Running]:
    def start(*options: str) -> Running:
        running = spawn(*UP, *options)
        running.line("Ctrl-C stops it")
        return running

    return start


def test_other_commands_find_the_queue_by_themselves(up: Callable[..., Running], tmp_path: Path) -> None:
    running = up(*QUEUE_ONLY)
    store = store_of(tmp_path)
    Box(store).submit("grab_box")
    store.client.close()
    assert "grab_box" in pi0q(tmp_path, "ls").stdout
    assert stat.S_IMODE((tmp_path / "up.json").stat().st_mode) == 0o600
    assert running.stop() == 0
    gone = pi0q(tmp_path, "ls")
    assert (gone.returncode, gone.stdout) == (4, "")
    assert "pi0q up" in gone.stderr


def test_what_it_says_is_enough_to_come_from_elsewhere(up: Callable[..., Running], tmp_path: Path) -> None:
    said = "".join(up("--port", "0", "--flower-port", "0", "--no-worker").said)
    url = facts(tmp_path)["redis_url"]
    assert f"export PI0Q_REDIS_URL={url}" in said
    assert f"-L {url.rpartition(':')[2].partition('/')[0]}:127.0.0.1:" in said
    assert facts(tmp_path)["flower_url"] in said
    assert (tmp_path / "flower.password").read_text().strip() in said


def test_a_second_one_harms_nothing_and_says_the_same(up: Callable[..., Running], tmp_path: Path) -> None:
    first = up(*QUEUE_ONLY)
    before = facts(tmp_path)
    second = pi0q(tmp_path, "up", "--port", "0")
    assert second.returncode == 0
    assert "already up" in second.stdout
    assert before["redis_url"] in second.stdout
    assert facts(tmp_path) == before
    assert first.process.poll() is None


def test_jobs_and_address_are_kept_between_starts(up: Callable[..., Running], tmp_path: Path) -> None:
    first = up(*QUEUE_ONLY)
    url = facts(tmp_path)["redis_url"]
    store = store_of(tmp_path)
    job = Box(store).submit("grab_box")
    store.client.close()
    assert first.stop(signal.SIGINT) == 0
    up("--no-worker", "--no-flower")
    assert facts(tmp_path)["redis_url"] == url
    again = store_of(tmp_path)
    assert again.get(job).name == "grab_box"
    again.client.close()


def test_a_server_that_dies_is_told_and_started_again(up: Callable[..., Running], tmp_path: Path) -> None:
    running = up(*QUEUE_ONLY)
    store = store_of(tmp_path)
    job = Box(store).submit("grab_box")
    assert store.client.waitaof(1, 0, 5000)[0] == 1
    os.kill(int(store.client.info("server")["process_id"]), signal.SIGKILL)
    running.line(r"The queue's server ended with -9")
    running.line(r"started again in 1 s")
    running.line(r"The queue's server runs again")
    assert store.get(job).name == "grab_box"
    store.client.close()


def test_killed_it_leaves_nothing_behind_that_hinders_the_next(up: Callable[..., Running], tmp_path: Path) -> None:
    first = up("--port", "0", "--flower-port", "0", "--no-worker")
    store = store_of(tmp_path)
    job = Box(store).submit("grab_box")
    store.client.close()
    first.process.kill()
    first.process.wait()
    second = up("--no-worker", "--no-flower")
    assert facts(tmp_path)["pid"] == second.process.pid
    again = store_of(tmp_path)
    assert again.get(job).name == "grab_box"
    again.client.close()


def test_a_taken_port_is_an_error_in_words(spawn: Spawn, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for option in ("--port", "--flower-port"):
            refused = spawn(*UP, "--port", "0", "--no-worker", option, port)
            told = refused.line(rf"Port {port} of this machine is taken")
            assert told
            refused.line(f"Choose another with {option}")
            assert refused.process.wait(30) == 2
    assert not (tmp_path / "up.json").exists()


def test_a_server_named_in_the_environment_is_pointed_out(spawn: Spawn) -> None:
    running = spawn(*UP, *QUEUE_ONLY, PI0Q_REDIS_URL="redis://127.0.0.1:1/0")
    running.line("PI0Q_REDIS_URL names another server")
    running.line("Ctrl-C stops it")


class Mortal:
    """Stands for a process that has ended."""

    returncode = 3

    def poll(self) -> int:
        return self.returncode


def test_a_part_that_keeps_dying_is_started_ever_more_rarely(tmp_path: Path) -> None:
    starts: list[float] = []
    said: list[str] = []
    now = 0.0

    def start() -> Any:
        starts.append(now)
        return Mortal()

    child = stack.Child(name="worker", start=start, log=tmp_path / "log")
    while now < 200:
        child.look(now, said.append)
        now += 0.5
    # Half a second until it is seen, then the delay.
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps == [1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 60.5, 60.5]
    assert "The worker ended with 3" in said[0]
