"""02i, 02l: a record that goes, or changes, while a box has the job. The box goes on, and says what it saw."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import Priority
from pi0q.jobs.state import State
from tests.rig.cluster import gone, wait
from tests.rig.damages import inject

if TYPE_CHECKING:
    from tests.attacks.conftest import Box, Cluster

#: What signatures keep from happening is not their subject.
pytestmark = pytest.mark.unsigned

BAD_SPEC = json.dumps({"train": {"policy.discover_packages_path": "os"}})


def forget(cluster: Cluster, box: Box, job: str) -> None:
    """Takes a running job's record away, as whoever knows the server's password can."""
    client, prefix = cluster.store.client, cluster.prefix
    client.delete(f"{prefix}job:{job}")
    client.zrem(f"{prefix}live", job)
    client.zrem(f"{prefix}leases", job)
    client.srem(f"{prefix}owned:{box.name}", job)


def test_a_forged_job_whose_record_is_deleted_while_it_runs(cluster: Cluster) -> None:
    """Its ledger lacks `installation`: the script that restores it failed, its runner looped, the box was lost."""
    box = cluster.box()
    cluster.slow_down(3)
    spec = dict(cluster.store.get(cluster.submit(steps=3)).spec) | {"name": "forged"}
    job = inject(cluster.store, spec | {"train": {**spec["train"], "steps": 20}}, steps="20", installation="")
    box.steps(job, 3)
    forget(cluster, box, job)
    cluster.store.client.hset(f"{cluster.prefix}server", "beats", 0)
    runner = box.runner(job)
    cluster.speed_up()
    wait(lambda: gone(runner), "the end of the runner", lambda: box.log)
    healthy = cluster.submit(steps=5)
    assert cluster.ends(healthy).state is State.SUCCEEDED
    assert "can't reach the queue" not in box.log and "Traceback" not in box.log
    restored = cluster.store.get(job)
    assert restored.state is State.SUCCEEDED
    assert any("older data" in event.text for event in restored.history)


def test_one_damaged_ledger_does_not_keep_the_others_from_the_server(cluster: Cluster) -> None:
    box = cluster.box()
    cluster.slow_down(3)
    job = cluster.submit(steps=20)
    box.steps(job, 3)
    for name, text in {"0" * 12: "{", "1" * 12: "[" * 50_000, "2" * 12: "{}"}.items():
        (box.home / "runs" / name).mkdir()
        (box.home / "runs" / name / "ledger.json").write_text(text)
    forget(cluster, box, job)
    cluster.store.client.hset(f"{cluster.prefix}server", "beats", 0)
    for name in ("0", "1", "2"):
        box.says(f"passed over the ledger {box.home / 'runs' / (name * 12) / 'ledger.json'}: The record of job")
    cluster.speed_up()
    assert cluster.ends(job).state is State.SUCCEEDED


def test_a_spec_that_changes_after_the_box_judged_it(cluster: Cluster) -> None:
    box = cluster.box()
    job = cluster.submit("swapped", steps=5, disk="900TiB")
    assert "disk" in cluster.refused(job), "the box has judged it"
    cluster.store.client.hset(f"{cluster.prefix}job:{job}", "spec", BAD_SPEC)
    # A change by which boxes read the record again.
    cluster.store.bump(job, Priority.HIGH, text="bumped by ada")
    ended = cluster.ends(job)
    assert (ended.state, ended.reason, ended.epoch) == (State.FAILED, Reason.SPEC_REFUSED, 0)
    healthy = cluster.submit(steps=5)
    assert cluster.ends(healthy).state is State.SUCCEEDED
    box.says(f"{job} swapped: its spec was changed after this box had judged it; it is ended")
    assert box.lives(job) == []


def test_a_spec_that_changes_between_claim_and_start(cluster: Cluster) -> None:
    """The runner died of it, the box called that a fault of its own, and claimed the job again and again."""
    box = cluster.box()
    wait(box.spare_runner, "a runner that waits", lambda: box.log)
    waits = box.spare_runner()
    os.kill(waits, signal.SIGSTOP)
    job = cluster.submit(steps=5)
    cluster.comes_to(job, State.CLAIMED)
    cluster.store.client.hset(f"{cluster.prefix}job:{job}", "spec", BAD_SPEC)
    os.kill(waits, signal.SIGCONT)
    ended = cluster.ends(job)
    assert (ended.state, ended.reason, ended.epoch) == (State.FAILED, Reason.SPEC_REFUSED, 1)
    assert "box-a cannot run it" in ended.history[-1].text
    box.says(f"{job} was claimed and cannot be run, it is ended")
    healthy = cluster.submit(steps=5)
    assert cluster.ends(healthy).state is State.SUCCEEDED
    assert "claims paused" not in box.log
