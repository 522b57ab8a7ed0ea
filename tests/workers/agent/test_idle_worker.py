"""A real `pi0q worker` that switches its machine off; a script that writes a line stands in for the command."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pi0q.ops.notify.notifier import Choice, Notifier, Target
from pi0q.queue import box_status
from pi0q.queue.idle_outlook import STATUS_FILE
from pi0q.queue.store import Store
from tests.conftest import Command, Running, Start, WaitFor
from tests.ops.notify.test_notifier import Service
from tests.rig.cluster import wait
from tests.workers.agent.test_worker import known, known_prefix, own, port, url

__all__ = ["own", "port"]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """What the command wrote: a line a call."""
    return tmp_path / "calls"


@pytest.fixture
def idle_box(start: Start, calls: Path) -> Callable[..., Running]:
    """Starts a box that soon has nothing to do; whoever runs the tests may be logged in."""

    def idle_box(**env: str) -> Running:
        code = f"open({str(calls)!r}, 'a').write('called\\n')"
        settings = {
            "PI0Q_TRAINER_PYTHON": "/bin/false",
            "PI0Q_LEASE_SECONDS": "3",
            "PI0Q_IDLE_AFTER": "1s",
            "PI0Q_IDLE_GRACE": "1s",
            "PI0Q_IDLE_DO": json.dumps([sys.executable, "-c", code]),
            "PI0Q_IDLE_ALLOW": "logins",
            "PI0Q_FAKE_GPUS": '[{"name": "H100", "total_gib": 80}]',
        }
        return start("worker", "--name", "box-a", **{**settings, **env})

    return idle_box


def status(home: Path) -> dict[str, object]:
    file = home / STATUS_FILE
    found: dict[str, object] = json.loads(file.read_text()) if file.exists() else {}
    return found


def text(store: Store) -> str:
    return box_status.idle_text({"seen_seconds": "0", **known(store)}, 1e9) if known(store) else ""


def test_it_tells_people_and_waits_and_a_person_keeps_it_on(
    idle_box: Callable[..., Running], calls: Path, store: Store, wait_for: WaitFor, call: Command, tmp_path: Path
) -> None:
    phone = Service()
    notifier = Notifier(store, Choice(usual=("box_off",), targets={"p": Target(phone)}, silent_seconds=60.0), tmp_path)
    notifier.look()
    running = idle_box(PI0Q_IDLE_GRACE="2h")
    wait_for(lambda: '"leaving"' in known(store).get("idle", ""))
    notifier.look()
    notifier.send(0.0)
    assert phone.titles == ["Box box-a switches itself off in 2 h"]
    assert "pi0q box keep-on 2h --box box-a" in phone.got[0].body
    assert "switches itself off in 2 h" in call("boxes").stdout
    on_the_box = {"PI0Q_IDLE_AFTER": "1s", "PI0Q_BOX": "box-a"}
    assert "power off    switches itself off in 2 h" in call("box", "status", **on_the_box).stdout
    assert call("box", "keep-on", "2h", **on_the_box).returncode == 0
    wait_for(lambda: "a person keeps it on" in text(store))
    notifier.look()
    notifier.send(100.0)
    assert phone.titles[1:] == ["Box box-a stays on"] and "a person keeps it on" in phone.got[1].body
    assert running.end(signal.SIGTERM) == 0
    assert not calls.exists() and text(store) == ""


def test_cut_off_it_waits_and_once_nothing_needs_it_it_calls_the_command_once(
    idle_box: Callable[..., Running],
    own: Callable[[], redis.Redis],
    calls: Path,
    tmp_path: Path,
    port: int,
) -> None:
    home, client = tmp_path / "home", own()
    home.mkdir()
    # As where `pi0q up` runs: it stays on until the test lets it go.
    (home / "up.json").write_text("{}")
    running = idle_box(PI0Q_REDIS_URL=url(tmp_path, port))
    wait(lambda: "server runs on this machine" in str(status(home)), "its first look")
    client.shutdown(nosave=True)
    wait(lambda: status(home).get("why") == ["the queue does not answer"], "being cut off")
    (home / "up.json").unlink()
    running.until("can't reach the queue")
    assert not calls.exists()
    store = Store(own(), known_prefix(running))
    wait(lambda: calls.exists() and known(store).get("status") == "stopped", "the command")
    assert text(store).startswith("off by itself since")
    # The machine takes its time to go down; the worker's last word says the same.
    assert running.end(signal.SIGTERM) == 0
    assert calls.read_text() == "called\n"
    assert known(store)["status"] == "stopped" and text(store).startswith("off by itself since")
