"""Seals beside a training, in order, and what each listener hears of them; what is removed behind them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pi0q.jobs.record import Saved
from pi0q.workers.checkpoints import local_store
from pi0q.workers.checkpoints.pins import Pins
from pi0q.workers.checkpoints.retention import Retention
from pi0q.workers.checkpoints.sealer import Sealer
from pi0q.workers.runs.eta import SaveSchedule
from pi0q.workers.runs.lease import Lease, boottime
from pi0q.workers.runs.listener import TrainerListener
from pi0q.workers.runs.progress import Progress
from tests.workers.checkpoints.conftest import Logged
from tests.workers.checkpoints.saved import checkpoint


class Listener(TrainerListener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_seal_failed(self, step: int, why: str) -> None:
        self.heard.append((step, why))

    def on_sealed(self, saved: Saved | None) -> None:
        self.heard.append(saved and saved.step)


class Faulty(TrainerListener):
    """A listener with a fault of its own."""

    def on_sealed(self, saved: Saved | None) -> None:
        raise ZeroDivisionError


class Saves:
    """A trainer's saves, and a sealer that hears of them."""

    def __init__(self, place: Path) -> None:
        self.checkpoints, self.listener = place / "checkpoints", Listener()
        self.lease = Lease(place / "lease", seconds=10**6, fence=10**6, since=boottime())
        self.progress = Progress(SaveSchedule(steps=9))

    def sealer(self, *listeners: TrainerListener) -> Sealer:
        return Sealer(1, self.lease, self.progress, [*listeners, self.listener])

    def save(self, sealer: Sealer, step: int) -> Path:
        checkpoint(self.checkpoints, step)
        directory = self.checkpoints / f"{step:06d}"
        local_store.unseal(directory)
        sealer.on_event({"event": "saved", "step": step, "path": str(directory)})
        return directory


@pytest.fixture
def saves(tmp_path: Path) -> Saves:
    return Saves(tmp_path)


def test_each_listener_hears_of_each_seal_in_order(saves: Saves, logged: Logged) -> None:
    sealer = saves.sealer()
    for step in (10, 20):
        saves.save(sealer, step)
    sealer.run_in_turn(lambda: saves.listener.heard.append("in turn"))
    sealer.on_exit()
    assert saves.listener.heard == [10, 20, "in turn"]
    assert [text.partition(",")[0] for text in logged.take()] == ["checkpoint 10 verified", "checkpoint 20 verified"]
    assert list(local_store.sealed_checkpoints(saves.checkpoints)) == [10, 20]


def test_an_incomplete_save_is_reported_and_the_next_one_sealed(saves: Saves, logged: Logged) -> None:
    sealer = saves.sealer()
    gate = threading.Event()
    sealer.run_in_turn(gate.wait)
    (saves.save(sealer, 10) / "pretrained_model/config.json").unlink()
    saves.save(sealer, 20)
    gate.set()
    sealer.on_exit()
    why = "000010 lacks pretrained_model/config.json"
    assert saves.listener.heard == [(10, why), None, 20]
    assert logged.take()[0] == f"Could not verify checkpoint 10: {why}"


def test_past_the_lease_nothing_is_sealed_and_no_step_is_blamed(saves: Saves, logged: Logged) -> None:
    sealer = saves.sealer()
    saves.lease.revoke()
    saves.save(sealer, 10)
    sealer.on_exit()
    assert saves.listener.heard == [None] and local_store.sealed_checkpoints(saves.checkpoints) == {}
    assert logged.take() == ["the lease expired before checkpoint 10 was verified; nothing more is written"]


def test_a_fault_of_one_listener_is_logged_and_keeps_nothing_from_the_next(saves: Saves, logged: Logged) -> None:
    sealer = saves.sealer(Faulty())
    saves.save(sealer, 10)
    sealer.on_exit()
    assert saves.listener.heard == [10] and "WARNING: Faulty failed on checkpoint 10" in logged.take()


def test_retention_removes_replaced_checkpoints_and_keeps_pinned_ones(saves: Saves, logged: Logged) -> None:
    for step in (10, 20, 30, 40):
        newest = checkpoint(saves.checkpoints, step)
    pins = Pins(saves.checkpoints, [10])
    retention = Retention(saves.checkpoints, keep=2, lease=saves.lease, pins=pins)
    retention.on_sealed(None)
    assert len(local_store.sealed_checkpoints(saves.checkpoints)) == 4
    retention.on_sealed(newest)
    assert list(local_store.sealed_checkpoints(saves.checkpoints)) == [10, 30, 40]
    assert logged.take() == ["removed checkpoints [20], replaced by newer ones"]
    assert retention.keep_newest_only() == [30]


def test_retention_removes_nothing_past_the_lease(saves: Saves, logged: Logged) -> None:
    for step in (10, 20):
        newest = checkpoint(saves.checkpoints, step)
    saves.lease.revoke()
    Retention(saves.checkpoints, keep=1, lease=saves.lease).on_sealed(newest)
    assert list(local_store.sealed_checkpoints(saves.checkpoints)) == [10, 20]
    assert logged.take() == ["the lease expired before older checkpoints were removed; they stay"]
