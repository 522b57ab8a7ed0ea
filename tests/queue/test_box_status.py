"""A box counts as unreachable after the same silence everywhere: the one that follows from the configured lease."""

from __future__ import annotations

import json

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.queue import box_status
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

#: A lease of 80 s makes a box unreachable after 40 s, the default one after 60 s.
SHORT_LEASE = {"PI0Q_LEASE_SECONDS": "80"}


def box(seen_seconds: float, **fields: str) -> dict[str, str]:
    return {"name": "box-a", "status": "ready", "seen_seconds": str(seen_seconds), **fields}


@pytest.mark.parametrize(
    ("announced", "status", "up"),
    [
        (box(0), "ready", True),
        (box(40), "ready", True),
        (box(40.1), "unreachable", False),
        (box(1, status="stopped"), "stopped", False),
        (box(900, status="stopped"), "stopped", False),
        (box(1, drain="drain"), "draining", True),
        (box(1, drain="drain", status="drained"), "drained", True),
        (box(50, drain="drain"), "unreachable", False),
    ],
)
def test_status_follows_from_the_last_heartbeat(announced: dict[str, str], status: str, up: bool) -> None:
    assert (box_status.status(announced, 40.0), box_status.is_up(announced, 40.0)) == (status, up)
    assert box_status.names_up([announced], 40.0) == ({"box-a"} if up else set())


def test_every_command_takes_the_configured_silence(call: Command, store: Store, driver: JobDriver) -> None:
    """50 s of silence: unreachable with a lease of 80 s, alive with the default one."""
    done = driver.submit("done")
    epoch = driver.run(done)
    store.move(done, transition.ended(store.get(done), epoch, Reason.FINISHED, "reached step 10"))
    store.client.hset(f"{store.prefix}job:{done}", "push", json.dumps({"state": "pending", "repo": "you/x"}))
    waiting = driver.submit("waiting")
    assert store.announce_box("box-a", "id-a", {"status": "ready", "slots": 1, "running": 0})

    def answers(**env: str) -> dict[str, bool]:
        """Which commands take the box for one that lives."""
        store.client.zadd(f"{store.prefix}boxes", {"box-a": store.now_ms() - 50_000})
        (shown,) = json.loads(call("boxes", "--json", **env).stdout)
        doctor = {one["name"]: one for one in json.loads(call("doctor", "--json", "--laptop", **env).stdout)["checks"]}
        return {
            "boxes": shown["status"] != "unreachable",
            "show": "no box is up" not in call("show", waiting, **env).stdout,
            "why": "no box is up" not in call("why", waiting, **env).stdout,
            "retry": json.loads(call("retry", done, "--json", **env).stdout)["waits_for"] == [],
            "drain": "Last heartbeat" not in call("drain", "box-a", **env).stdout,
            "doctor": doctor["boxes"]["detail"] != "no box takes jobs from this queue",
        }

    assert set(answers(**SHORT_LEASE).values()) == {False}
    assert set(answers().values()) == {True}
