"""`pi0q up -d`, `--stop` and `--at-boot`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.ops.local import background, stack
from pi0q.ops.machine import Machine
from pi0q.ops.systemd import unit_file
from pi0q.queue.settings import load
from tests.conftest import Command
from tests.ops.conftest import NOWHERE

QUEUE_ONLY = ("--port", "0", "--no-worker", "--no-flower", "--no-web")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    background.stop(home)


def test_detached_stack_outlives_its_command_and_is_stopped_by_another(pi0q: Command, home: Path) -> None:
    env = {**NOWHERE, "PI0Q_HOME": str(home)}
    first = pi0q("up", "-d", *QUEUE_ONLY, **env)
    assert first.returncode == 0 and first.stdout.startswith("pi0q is up, in the background.")
    known = background.facts(home)
    assert os.getsid(known["pid"]) == known["pid"] != os.getsid(0), "a session of its own outlives the login"
    assert "No jobs yet." in pi0q("ls", **env).stdout
    assert known["redis_url"] not in first.stdout, "no password into a pipe"
    again = pi0q("up", "-d", *QUEUE_ONLY, **env)
    assert again.returncode == 0 and again.stdout.startswith("pi0q is already up here; nothing was started.")
    assert background.facts(home) == known
    assert pi0q("up", "--stop", **env).stdout == "Stopped; jobs and records are kept.\n"
    assert not stack.is_up(home)
    assert pi0q("up", "--stop", **env).stdout == f"No pi0q up runs in {home}.\n"


def test_detached_stack_that_cannot_start_says_why(pi0q: Command, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = pi0q(
            "up", "-d", "--port", port, "--no-worker", "--no-flower", "--no-web", **NOWHERE, PI0Q_HOME=str(home)
        )
    assert answer.returncode == 1
    assert f"ended with 2. The end of {home}/logs/up.log" in answer.stderr and port in answer.stderr
    assert not stack.is_up(home)


def test_stop_and_detach_are_two_things(pi0q: Command, home: Path) -> None:
    answer = pi0q("up", "-d", "--stop", **NOWHERE, PI0Q_HOME=str(home))
    assert answer.returncode == 2 and "three different things" in answer.stderr and not home.exists()


def test_stale_facts_of_a_killed_stack_stop_no_other_process(home: Path) -> None:
    home.mkdir()
    (home / "up.lock").touch()
    (home / "up.json").write_text(json.dumps({"pid": os.getpid(), "ready": True}))
    assert not background.stop(home)


def test_words_of_options_are_those_of_the_command_line() -> None:
    options = {"port": 0, "flower_port": None, "slots": 2, "no_worker": True, "no_flower": False, "demo": False}
    assert background.words_of(options) == ["--port", "0", "--slots", "2", "--no-worker"]


def test_unit_of_the_queue_keeps_trainings_and_names_its_home() -> None:
    text = background.unit_text(Path("/data/pi0q"), ["--no-worker"])
    assert '"up" "--no-worker"' in text and 'Environment="PI0Q_HOME=/data/pi0q"' in text
    assert "KillMode=process" in text and "WantedBy=default.target" in text


def test_start_with_the_machine_without_systemd_names_cron(tmp_path: Path, home: Path) -> None:
    machine = Machine(root=tmp_path, env={"HOME": str(tmp_path)})
    chosen = load({"PI0Q_HOME": str(home), "HOME": str(tmp_path)})
    with pytest.raises(UsageError, match=r"Fix: run `crontab -e` and add: @reboot PI0Q_HOME=.* up -d"):
        background.enable(machine, chosen, [])
    assert not background.disable(machine, home) and not home.exists()


def test_start_with_the_machine_is_a_unit_that_stop_removes(systemd: Machine, home: Path) -> None:
    chosen = load({"PI0Q_HOME": str(home), "HOME": systemd.env["HOME"]})
    file = unit_file(systemd, background.UNIT)
    assert str(file) in background.enable(systemd, chosen, ["--no-flower"])
    assert file.read_text() == background.unit_text(home, ["--no-flower"])
    assert not background.disable(systemd, home / "other") and file.exists()
    assert background.disable(systemd, home) and not file.exists()
    asked = (Path(systemd.env["HOME"]) / "asked").read_text()
    assert f"enable --now {background.UNIT}" in asked and f"disable --now {background.UNIT}" in asked


@pytest.fixture
def systemd(tmp_path: Path) -> Machine:
    """A machine whose systemctl is a fake that writes down what it was asked."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nshift\necho "$@" >> {tmp_path}/asked\n')
    fake.chmod(0o755)
    return Machine(root=tmp_path, env={"HOME": str(tmp_path), "PATH": f"{fake.parent}:/usr/bin:/bin"})
