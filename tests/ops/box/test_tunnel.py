"""The ssh tunnel of a box: what is run, that it is kept open, and what is refused. `ssh` is a stand-in here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.ops.box import setup, supervisor_main, tunnel
from tests.conftest import Command
from tests.ops.box.test_box_setup import machine
from tests.rig.cluster import wait

URL = "redis://box-a:secret@127.0.0.1:6389/0"


@pytest.fixture
def ssh(tmp_path: Path) -> Path:
    """A stand-in that writes down how it was called and lives until it is killed; a directory for PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(f'#!/bin/sh\necho "$$ $*" >>{tmp_path}/calls\nexec sleep 1000\n')
    (folder / "ssh").chmod(0o755)
    return folder


def calls(tmp_path: Path) -> list[str]:
    file = tmp_path / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_the_command_line_carries_the_queues_port_and_asks_nobody() -> None:
    made = tunnel.parse("me@server:2222", URL, reverse=False)
    words = made.argv()
    assert words[0] == "ssh" and words[-2:] == ["--", "me@server"]
    assert words[words.index("-L") + 1] == "127.0.0.1:6389:127.0.0.1:6389"
    assert words[words.index("-p") + 1] == "2222" and "BatchMode=yes" in words
    assert "-R" in replace(made, reverse=True).argv() and "-L" not in replace(made, reverse=True).argv()


@pytest.mark.parametrize(
    "to", ["server", "-oProxyCommand=x@h", "me@", "me@h:0", "me@h:99999", "me@-h", "a b@h", "me@h;x"]
)
def test_a_destination_that_is_none_is_refused(to: str) -> None:
    with pytest.raises(UsageError, match=r"can't be read(.|\n)*Fix: USER@HOST"):
        tunnel.parse(to, URL, reverse=False)


@pytest.mark.parametrize("url", ["redis://queue.example:6389/0", "unix:///run/redis.sock", "redis://127.0.0.1/0"])
def test_an_address_beside_the_tunnel_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"Fix: PI0Q_REDIS_URL=redis://USER:PASSWORD@127.0.0.1:PORT/0"):
        tunnel.parse("me@server", url, reverse=False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"to": "-oX@h", "ssh_port": 22, "port": 1, "reverse": false}'])
def test_a_file_that_setup_did_not_write_is_no_tunnel(tmp_path: Path, text: str) -> None:
    (tmp_path / tunnel.FILE).write_text(text)
    assert tunnel.read(tmp_path) is None


def test_setup_writes_it_once_and_takes_it_back(tmp_path: Path) -> None:
    one = machine(tmp_path, autodl=False, PI0Q_REDIS_URL=URL)
    made = replace(setup.plan(one), tunnel=tunnel.parse("me@server", URL, reverse=False))
    made.home.mkdir(parents=True)
    step = tunnel.KeptTunnel(made)
    assert "does not say port 6389 of me@server" in step.missing()
    assert "port 6389 of me@server" in step.do()
    assert step.missing() == "" and tunnel.read(made.home) == made.tunnel
    assert [one.name for one in setup.steps_of(replace(made, tunnel=None))].count("tunnel") == 1
    assert step.undo() and tunnel.read(made.home) is None
    assert "tunnel" not in [one.name for one in setup.steps_of(replace(made, tunnel=None))]


@pytest.mark.parametrize("words", [["--reverse"], ["--tunnel", "nowhere"], ["--tunnel", "me@server"]])
def test_setup_refuses_a_tunnel_that_leads_nowhere(call: Command, tmp_path: Path, words: list[str]) -> None:
    answer = call("box", "setup", *words, PI0Q_REDIS_URL="redis://a:b@queue.example:6389/0")
    assert answer.returncode == 2 and not (tmp_path / "home" / tunnel.FILE).exists()


@pytest.fixture
def keeper(tmp_path: Path, ssh: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that keeps the tunnel of a home open."""
    made = tunnel.parse("me@server", URL, reverse=False)
    step = tunnel.KeptTunnel(replace(setup.plan(machine(tmp_path, autodl=False, PI0Q_REDIS_URL=URL)), tunnel=made))
    step.plan.home.mkdir(parents=True)
    step.do()
    env = os.environ | {"PI0Q_HOME": str(step.plan.home), "PATH": f"{ssh}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pi0q.ops.box.tunnel_main"], env=env, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_connection_that_ends_is_made_again_and_sigterm_ends_it(
    keeper: subprocess.Popen[str], tmp_path: Path
) -> None:
    wait(lambda: len(calls(tmp_path)) == 1, "the first connection")
    first = int(calls(tmp_path)[0].split()[0])
    os.kill(first, signal.SIGKILL)
    wait(lambda: len(calls(tmp_path)) == 2, "the second connection")
    second = int(calls(tmp_path)[1].split()[0])
    assert calls(tmp_path)[1].endswith("-L 127.0.0.1:6389:127.0.0.1:6389 -- me@server")
    keeper.terminate()
    said, _ = keeper.communicate()
    assert "ssh ended with -9" in said and "Trying again in" in said and keeper.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_the_boxes_supervisor_keeps_the_tunnels_process(
    tmp_path: Path, ssh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    monkeypatch.setenv("PI0Q_HOME", str(home))
    monkeypatch.setenv("PATH", f"{ssh}:{os.environ['PATH']}")
    made = tunnel.parse("me@server", URL, reverse=True)
    (home / tunnel.FILE).write_text(f'{{"to": "{made.to}", "ssh_port": 22, "port": {made.port}, "reverse": true}}')
    looks = iter(range(1000))

    def wait_for(seconds: float) -> signal.Signals | None:
        assert next(looks) < 999
        if calls(tmp_path):
            return signal.SIGTERM
        signal.sigtimedwait([signal.SIGURG], 0.1)
        return None

    worker = lambda: subprocess.Popen(["sleep", "1000"])  # noqa: E731
    supervisor_main.WorkerSupervisor(home, spawn=worker, wait=wait_for).run()
    pid, *words = calls(tmp_path)[0].split()
    assert "-R" in words
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
