"""A box within this process, on a real queue."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.verbs.submit import put
from pi0q.workers import soundness
from pi0q.workers.box import Box
from pi0q.workers.interpreter import Trainer
from pi0q.workers.run.directory import RunDirectory

CARD = ({"name": "simulated", "total_gib": 80},)


def a_box(settings: Settings, store: Store, name: str = "box-a", **how: Any) -> Box:
    home = settings.home if name == "box-a" else settings.home / name
    chosen = replace(settings, box=name, home=home, fake_gpus=CARD, system_disk_reserve_mib=0)
    chosen = replace(chosen, trainer_python="/bin/false")
    box = Box(chosen, store, slots=how.get("slots", 2))
    box.trainer = Trainer(python="/bin/false", lerobot="0.6.1")
    return box


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory the tests themselves may use."""
    monkeypatch.setattr(soundness, "machine", lambda **_: soundness.Machine(shared_mib=None, memory_mib=None))


@pytest.fixture
def box(chosen: Settings, store: Store, roomy: None) -> Box:
    made = a_box(chosen, store)
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    return made


def submit(store: Store, gib: int = 30, priority: str = "normal") -> str:
    text = f"""
        priority: {priority}
        resources: {{gpus: 1, vram: {gib}GiB, disk: 1MiB}}
        train: {{dataset: {{repo_id: local/d, root: datasets/d}}, policy: {{type: act}}, steps: 10}}
    """
    return str(put(store, parse(text, filename="job.yaml"))["id"])


def at_work(box: Box, job: str, *, epoch: int = 1) -> RunDirectory:
    """A runner of this job lives: this very process."""
    directory = RunDirectory(box.settings.runs / job)
    directory.make()
    directory.sign(job, epoch)
    return directory


def own_queue(box: Box) -> list[str]:
    raw: list[str] = box.store.client.lrange(f"{box.store.prefix}box.{box.name}", 0, -1)  # type: ignore[assignment]
    return [json.loads(text)["headers"]["id"] for text in raw]


def join_tries() -> None:
    """Waits until all that aftercare began is done and told; one that has yet to tell is no longer busy."""
    for thread in threading.enumerate():
        if thread.name.startswith("aftercare "):
            thread.join()
