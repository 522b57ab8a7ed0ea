"""Switching itself off: what `pi0q box setup` takes for it and what `pi0q box status` says."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.ops.box import idle
from pi0q.queue.idle_outlook import STATUS_FILE, Outlook
from pi0q.queue.idle_policy import Phase
from pi0q.queue.settings import Settings
from tests.conftest import Command


def test_setup_stores_only_what_was_given() -> None:
    given = {"idle_after": "20min", "idle_do": '["/bin/off", "-n"]', "idle_grace": None, "idle_allow": "none"}
    assert idle.values(given) == {"idle_after": "20min", "idle_do": '["/bin/off", "-n"]', "idle_allow": ""}
    with pytest.raises(UsageError, match="Nothing was changed"):
        idle.values({"idle_after": "20"})


def test_setup_warns_where_nothing_can_switch_the_machine_off(chosen: Settings) -> None:
    stored = {"idle_after": "20min", "idle_do": '["/nowhere/off"]'}
    found = idle.check(idle.with_values(chosen, stored))
    assert found and found.detail == "/nowhere/off is no program that this user may run" and "--idle-do" in found.cure
    assert idle.check(idle.with_values(chosen, {**stored, "idle_after": "off"})) is None


def test_setup_checks_and_refuses(call: Command, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PI0Q_TRAINER_PYTHON": "/bin/false"}
    wrong = call("box", "setup", "--idle-do", "rm -rf /", **env)
    assert wrong.returncode == 2 and "--idle-do can't be read" in wrong.stderr and "Traceback" not in wrong.stderr
    assert not (tmp_path / "config" / "pi0q").exists()
    checked = call("box", "setup", "--check", "--json", "--idle-after", "20min", **env)
    steps = {one["name"]: one["detail"] for one in json.loads(checked.stdout)["steps"]}
    assert "idle_after" in steps["settings"]


@contextmanager
def worker_runs(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_status_says_when_or_why_not(chosen: Settings) -> None:
    assert idle.status(chosen, now=0.0) == "never by itself; pi0q box setup --idle-after 20min changes that"
    one = replace(chosen, idle_after=1200.0)
    assert idle.status(one, now=0.0) == "never by itself while its worker does not run; pi0q box start"
    file = chosen.home / STATUS_FILE
    with worker_runs(chosen.home):
        assert idle.status(one, now=0.0) == "by itself once nothing has needed it for 20 min"
        file.write_text(json.dumps({**Outlook(phase=Phase.COUNTING, seconds=780).to_json(), "at": 1000.0}))
        assert idle.status(one, now=1060.0) == "switches itself off in 12 min"
        file.write_text(json.dumps({**Outlook(phase=Phase.NEEDED, why=["2 pushes pending"]).to_json(), "at": 1000.0}))
        assert idle.status(one, now=9999.0) == "stays on: 2 pushes pending"
        for damage in ("{", "[]", '{"phase": "off"}', json.dumps({**Outlook(phase=Phase.OFF).to_json(), "at": 1.0})):
            file.write_text(damage)
            assert idle.status(one, now=9999.0) == "by itself once nothing has needed it for 20 min"
