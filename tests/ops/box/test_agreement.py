"""What doctor, box status, box setup, boxes and why say of one machine: the same, from the same places."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.ops.box import check as care
from pi0q.ops.box import setup
from pi0q.ops.box.worker_state import WorkerState
from pi0q.ops.checks import install, own_box, trainer
from pi0q.ops.checks.finding import CheckTarget, Finding, Status, check_target
from pi0q.ops.machine import Machine
from pi0q.queue import refusals
from pi0q.queue.refusals import Problem
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from tests.conftest import Command
from tests.workers.conftest import submit

CARD = {"uuid": "FAKE-box-a-0", "name": "H100", "total_mib": 81920, "free_mib": 81920, "simulated": True}


@pytest.fixture
def target(env: dict[str, str], tmp_path: Path) -> CheckTarget:
    """This machine as a box named box-a, neither AutoDL nor systemd, with a home of its own."""
    machine = Machine(root=tmp_path / "root", env={**env, "PI0Q_BOX": "box-a", "HOME": str(tmp_path), "PATH": "/bin"})
    found = check_target(machine, box=True)
    found.settings.home.mkdir(exist_ok=True)
    return found


@pytest.fixture
def worker(target: CheckTarget, store: Store) -> Iterator[None]:
    """Holds the lock and announces the box as a worker does that was started by hand with PI0Q_FAKE_GPUS."""
    announce(store, target.settings)
    with (target.settings.home / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def announce(store: Store, settings: Settings, **more: str) -> None:
    said = {"status": "ready", "slots": 1, "gpus": json.dumps([CARD]), "free_mib": "[81920]", "disk_free_mib": 4096}
    assert store.announce_box("box-a", "id-a", said | {"home": str(settings.home)} | more)


def by_name(found: Iterator[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in found}


def status(target: CheckTarget) -> dict[str, object]:
    return setup.state(target.machine, target.settings)


def gpu(target: CheckTarget) -> Finding:
    return trainer.gpu(*own_box.cards(target.settings), autodl=False)


@pytest.mark.usefixtures("worker")
def test_a_worker_started_by_hand_and_its_simulated_cards(target: CheckTarget, call: Command) -> None:
    found = by_name(care.check(target))
    assert found["worker"].detail == status(target)["worker_state"] == WorkerState.BY_HAND.value
    assert gpu(target).status is Status.OK and "(simulated)" in gpu(target).detail
    assert status(target)["cards"] == "1 (simulated)" and status(target)["takes_jobs"] == "yes"
    plan = setup.plan(target.machine)
    steps = {one.name: one for one in setup.check(plan)}
    assert WorkerState.BY_HAND.value in steps["worker"].detail
    # Neither can start it with the machine, and both say so.
    assert steps["start at boot"].status == "none" and found["start at boot"].status is Status.WARNING
    assert found["start at boot"].detail in steps["start at boot"].detail
    assert steps["token"].status == "none"
    stopped = call("box", "stop", PI0Q_BOX="box-a")
    assert stopped.returncode == 1 and "started by hand" in stopped.stderr and "pi0q drain box-a" in stopped.stderr


@pytest.mark.usefixtures("worker")
def test_a_drained_box_is_drained_for_all(target: CheckTarget, store: Store, call: Command) -> None:
    job = submit(store)
    store.drain("box-a", "drain", text="by ada: new driver")
    told = by_name(care.check(target))["taking jobs"]
    assert told.detail == "by ada: new driver" and told.cure == "pi0q drain box-a --undo"
    assert status(target)["takes_jobs"] == f"no: {told.detail}; {told.cure}"
    assert "box-a (drained)" in by_name(install.boxes(target))["boxes"].detail
    why = call("why", job).stdout
    assert told.detail in why and told.cure in why
    assert told.detail in call("boxes").stdout
    store.drain("box-a", "", text="")


@pytest.mark.usefixtures("worker")
def test_what_blocks_a_box_is_told_in_the_same_words(target: CheckTarget, store: Store, call: Command) -> None:
    job, reason = submit(store), Problem(text="the system disk is full")
    announce(store, target.settings, blocked=json.dumps(reason.to_json()))
    assert refusals.from_json(reason.to_json()) == reason
    assert by_name(care.check(target))["taking jobs"].detail == str(reason)
    assert str(reason) in str(status(target)["takes_jobs"])
    assert str(reason) in call("why", job).stdout


def test_without_a_worker_nobody_claims_one(target: CheckTarget, store: Store, call: Command) -> None:
    # Another machine may have a box of the same name.
    announce(store, target.settings, home="/elsewhere")
    assert by_name(care.check(target))["worker"].detail.startswith(WorkerState.STOPPED.value)
    assert status(target)["worker_state"] == WorkerState.STOPPED.value
    assert str(status(target)["takes_jobs"]).startswith("no: ")
    assert gpu(target).status is Status.BROKEN
    assert call("box", "stop", PI0Q_BOX="box-a").stdout == "No worker was running.\n"


def test_a_server_that_is_away_is_no_worker_that_is_away(target: CheckTarget) -> None:
    away = replace(target.settings, redis_url="redis://127.0.0.1:1/0")
    assert str(setup.state(target.machine, away)["takes_jobs"]).startswith("unknown: ")
