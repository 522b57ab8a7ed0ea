"""A box on a real queue: its heartbeats, the first and the last, and what Flower shows of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.agent.agent import Agent
from pi0q.workers.agent.box import Box
from tests.conftest import Command
from tests.workers.conftest import a_box


def test_two_boxes_of_one_name_are_told_apart(box: Box, chosen: Settings, store: Store) -> None:
    box.announce()
    other = a_box(chosen, store, "elsewhere")
    other.registration.identity = replace(other.context.identity, name="box-a")
    with pytest.raises(UsageError, match="Another machine already runs as box box-a; this worker claims nothing"):
        other.announce()
    box.announce()


def test_a_drain_is_announced_at_once(box: Box, store: Store, call: Command) -> None:
    """Not at the next beat, 10 s later."""
    agent = Agent(box, give_up=print)
    agent.announce()
    agent._subscription, agent._next_beat = agent._subscribe(), float("inf")
    call("drain", "box-a")
    with agent._subscription:
        agent.sleep()
    agent.beat()
    assert store.boxes()[0]["status"] == "drained"


def test_the_last_heartbeat_says_that_it_stopped(box: Box, store: Store) -> None:
    """Whatever its agent was about to say."""
    box.announce()
    box.context.stopping.set()
    box.announce(status="stopped")
    box.announce()
    assert store.boxes()[0]["status"] == "stopped"


def test_info_for_flower(box: Box) -> None:
    shown = box.heartbeat.info()["pi0q"]
    assert shown["gpu0"] == "simulated | VRAM free 80.0/80.0 GiB | simulated"
    assert shown["slots"] == "0 of 2 in use"
    assert shown["LeRobot"] == "0.6.1 in /bin/false"
    assert Path(shown["data disk"].partition(" | ")[0]).is_dir()
