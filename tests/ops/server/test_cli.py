"""`pi0q server` as its user types it: before the server starts, and while it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pi0q.ops.local import server as servers
from tests.conftest import Command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def running(call: Command, home: Path) -> Iterator[servers.Server]:
    """A server with roles, as `pi0q up` of this home runs it."""
    assert call("server", "init", "--memory-mib", "64").returncode == 0
    port = servers.choose_port(0, default=0, option="--port")
    (home / "server" / "port").write_text(str(port))
    started = servers.start(home / "server", port=port, log=home / "log")
    (home / "up.json").write_text(json.dumps({"redis_url": started.url}))
    yield started
    started.stop()


def url_of(home: Path, name: str) -> str:
    """The address that a new user is handed."""
    text = (home / "server" / "access" / name / "env").read_text()
    found = re.search(r"PI0Q_REDIS_URL='([^']+)'", text)
    assert found
    return found[1]


def test_roles_are_turned_on_before_anyone_is_added(call: Command) -> None:
    for words in (["list"], ["add-box", "gpu1"], ["add-user", "ada"], ["revoke", "ada"], ["limit", "ada"]):
        answer = call("server", *words)
        assert answer.returncode == 2 and answer.stderr.endswith("Fix: pi0q server init\n")


def test_users_wait_for_the_start_of_the_server(call: Command, home: Path) -> None:
    assert call("server", "init").returncode == 0
    answer = call("server", "add-box", "gpu1")
    assert answer.returncode == 0 and "from the next start of the server on" in answer.stdout
    # Standard output is no terminal here.
    assert "redis://" not in answer.stdout
    folder = home / "server" / "access" / "gpu1"
    assert folder.stat().st_mode & 0o077 == 0 and (folder / "env").stat().st_mode & 0o077 == 0
    assert "export PI0Q_BOX=gpu1\n" in (folder / "env").read_text()
    listed = json.loads(call("server", "list", "--json").stdout)
    assert {"name": "gpu1", "role": "worker", "box": "gpu1", "jobs": 1000, "mib": 64} in listed["users"]
    again = call("server", "init", "--memory-mib", "128")
    assert again.returncode == 0 and "gpu1" in call("server", "list").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add-user", "a b"], "can't be the name of a user"),
        (["add-user", "owner"], "owner is pi0q's own"),
        (["add-user", "default"], "default is pi0q's own"),
        (["add-box", "../x"], "can't be the name of a user"),
        (["add-user", "ada"], "There is a user ada already"),
        (["revoke", "bob"], "There is no user bob; nothing was changed. Known are: ada."),
        (["limit", "bob"], "There is no user bob"),
        (["revoke", "local-box"], "is a part of pi0q up on this machine"),
        (["add-user", "bob", "--role", "god"], "Invalid value for '--role'"),
        (["add-user", "bob", "--jobs", "-1"], "Invalid value for '--jobs'"),
    ],
)
def test_what_cannot_be_changes_nothing(call: Command, home: Path, words: list[str], said: str) -> None:
    call("server", "init")
    call("server", "add-user", "ada")
    before = (home / "server" / "users.json").read_text()
    answer = call("server", *words)
    assert answer.returncode == 2 and said in answer.stderr
    assert (home / "server" / "users.json").read_text() == before


def test_a_file_that_is_damaged_starts_nothing_and_says_how_to_go_on(call: Command, home: Path) -> None:
    call("server", "init")
    file = home / "server" / "users.json"
    file.write_text(file.read_text().replace('"role": "viewer"', '"role": "god"'))
    answer = call("server", "list")
    assert answer.returncode == 2 and "cannot be read" in answer.stderr and "Fix: " in answer.stderr
    file.write_text('{"users": [')
    assert call("server", "add-user", "ada").returncode == 2
    assert file.read_text() == '{"users": ['


def test_a_user_comes_is_limited_and_goes_while_the_server_runs(
    call: Command, running: servers.Server, home: Path, tmp_path: Path
) -> None:
    assert "next start" not in call("server", "add-user", "ada", "--jobs", "1").stdout
    ada = {"PI0Q_REDIS_URL": url_of(home, "ada"), "PI0Q_PREFIX": call_prefix(home)}
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    first = call("submit", "job.yaml", "--json", **ada)
    assert first.returncode == 0, first.stderr
    file.write_text(JOB.replace("one", "two"))
    refused = call("submit", "job.yaml", **ada)
    assert refused.returncode == 1 and "ada has 1 waiting jobs" in refused.stderr
    assert "pi0q server limit ada --jobs 2" in refused.stderr
    assert call("server", "limit", "ada", "--jobs", "2").returncode == 0
    assert call("submit", "job.yaml", **ada).returncode == 0
    drained = call("prune", "--yes", "--keep", "0d", **ada)
    assert drained.returncode in (0, 4)
    answer = call("server", "revoke", "ada")
    assert answer.returncode == 0 and "ada is removed" in answer.stdout
    assert not (home / "server" / "access" / "ada").exists()
    assert "refuses the user or password" in call("ls", **ada).stderr


def call_prefix(home: Path) -> str:
    """The prefix that the roles of this home are for."""
    return str(json.loads((home / "server" / "users.json").read_text())["prefix"])


def test_a_server_that_restarts_has_its_scripts_before_its_port_opens(
    call: Command, running: servers.Server, home: Path, tmp_path: Path
) -> None:
    call("server", "add-user", "ada")
    running.process.kill()
    running.process.wait()
    again = servers.start(home / "server", port=running.port, log=home / "log")
    try:
        assert call("ls", PI0Q_REDIS_URL=url_of(home, "ada"), PI0Q_PREFIX=call_prefix(home)).returncode == 0
        with redis.Redis.from_url(again.url) as owner:
            owner.script_flush()
        (tmp_path / "job.yaml").write_text(JOB)
        answer = call("submit", "job.yaml", PI0Q_REDIS_URL=url_of(home, "ada"), PI0Q_PREFIX=call_prefix(home))
        assert answer.returncode == 4 and "does not have the scripts of this version" in answer.stderr
    finally:
        again.stop()


JOB = """\
name: one
train:
  dataset: {repo_id: lerobot/pusht}
  policy: {type: act, push_to_hub: false}
  steps: 100
  batch_size: 8
"""
