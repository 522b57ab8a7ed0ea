"""A real server, a real Flower, a real browser."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import redis

from pi0q.ops import server as servers
from pi0q.queue import message
from pi0q.queue.store import Claimed, Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """One server for all tests; each has its own prefix on it."""
    home = tmp_path_factory.mktemp("server")
    port = servers.choose_port(0, default=0, option="--port")
    started = servers.start(home / "data", port=port, log=home / "server.log")
    yield started
    started.stop()


@pytest.fixture
def store(server: servers.Server) -> Iterator[Store]:
    """An empty store."""
    client = redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=5)
    yield Store(client, prefix=f"test-{secrets.token_hex(4)}:")
    client.close()


class Box:
    """Writes records as `pi0q submit` and a box's worker do."""

    def __init__(self, store: Store, name: str = "box-a") -> None:
        self.store = store
        self.name = name

    def submit(self, name: str, **fields: Any) -> str:
        job_id = secrets.token_hex(6)
        needs = {"gpus": 1, "vram_mib": 92160, "disk_mib": 122880}
        raw = message.build(job_id, name=name, needs=needs, priority="normal", origin="someone@laptop")
        known: dict[str, Any] = {
            "id": job_id,
            "name": name,
            "priority": "normal",
            "submitter": "someone@laptop",
            "needs": needs,
        }
        known |= {"queue": message.queue_key(message.STEPS["normal"]), "message": raw, "spec": {}, "steps": 50000}
        assert self.store.submit(job_id, known | fields, text="submitted")
        return job_id

    def claim(self, job_id: str) -> int:
        claimed = self.store.claim(
            job_id, box=self.name, boot="1", lease_seconds=600, promises=[], gpus=[], text=f"by {self.name}"
        )
        assert isinstance(claimed, Claimed)
        return claimed.epoch

    def report(self, job_id: str, epoch: int, **fields: Any) -> str:
        return self.store.report(job_id, epoch, lease_seconds=600, fields=fields)


@pytest.fixture
def box(store: Store) -> Box:
    return Box(store)


class Running:
    """A command of ours in a process of its own; `line` waits for what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.out: IO[str] = process.stdout
        self.said: list[str] = []

    def line(self, pattern: str) -> re.Match[str]:
        for text in self.out:
            self.said.append(text)
            if found := re.search(pattern, text):
                return found
        raise AssertionError(f"it ended without saying {pattern!r}:\n{''.join(self.said)}")

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after the signal."""
        self.process.send_signal(sig)
        rest, _ = self.process.communicate(timeout=60)
        self.said.append(rest)
        return self.process.returncode


Spawn = Callable[..., Running]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts Python with arguments and settings; stops it at the end of the test."""
    with spawning(tmp_path) as start:
        yield start


@contextmanager
def spawning(home: Path) -> Iterator[Spawn]:
    started: list[Running] = []

    def start(*args: str, **settings: str) -> Running:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PI0Q_")}
        env = clean | {"PI0Q_HOME": str(home), "XDG_CONFIG_HOME": str(home), "PYTHONUNBUFFERED": "1"} | settings
        process = subprocess.Popen(
            [sys.executable, *args],
            env=env,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(Running(process))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()
        running.out.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real headless browser of this machine."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on PATH (looked for {', '.join(BROWSERS)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
