"""A box within this process, on a real queue."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from pi0q.jobs.spec import parse
from pi0q.queue import box_status
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.agent.box import Box
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.trainer import health_check
from pi0q.workers.trainer.interpreter import TrainerPython

CARD = ({"name": "simulated", "total_gib": 80},)


def a_box(settings: Settings, store: Store, name: str = "box-a", **how: Any) -> Box:
    home = settings.home if name == "box-a" else settings.home / name
    slots = how.get("slots", 2)
    cards = how.get("cards", CARD * slots)
    chosen = replace(settings, box=name, home=home, fake_gpus=cards, system_disk_reserve_mib=0)
    chosen = replace(chosen, trainer_python="/bin/false")
    box = Box(chosen, store, slots=slots)
    box.context.trainer = TrainerPython(python="/bin/false", lerobot="0.6.1")
    return box


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory the tests themselves may use."""
    limits = health_check.Limits(shared_mib=None, memory_mib=None)
    monkeypatch.setattr(health_check, "measure_limits", lambda **_: limits)


@pytest.fixture
def box(chosen: Settings, store: Store, roomy: None) -> Box:
    made = a_box(chosen, store)
    (chosen.home / "datasets/d/meta").mkdir(parents=True)
    (chosen.home / "datasets/d/meta/info.json").write_text("{}")
    return made


def submit(
    store: Store,
    gib: int = 30,
    priority: str = "normal",
    *,
    gpus: int = 1,
    more: str = "",
    limit: str = "null",
    start_in: float = 0.0,
) -> str:
    """Queue a job; `more` are further resources: "share: true"; `start_in`: it waits for that many seconds."""
    text = f"""
        time_limit: {limit}
        priority: {priority}
        resources: {{gpus: {gpus}, vram: {gib}GiB, disk: 1MiB, {more}}}
        train: {{dataset: {{repo_id: local/d, root: datasets/d}}, policy: {{type: act}}, steps: 10}}
    """
    timed = {"start_ms": store.now_ms() + int(1000 * start_in)} if start_in else {}
    return str(put(store, {**new_fields(parse(text, filename="job.yaml")), **timed})["id"])


def at_work(box: Box, job: str, *, epoch: int = 1) -> RunDirectory:
    """A runner of this job lives: this very process."""
    directory = RunDirectory(box.context.settings.runs / job)
    directory.make()
    directory.write_pidfile(job, epoch)
    return directory


def refused(box: Box, job: str) -> str:
    """Why the box does not take the job, as a person reads it from what the box would announce."""
    announced = {**box.heartbeat._fields(box.context.measure(), (), "ready"), "name": box.name}
    return "; ".join(map(str, box_status.reasons(announced, box.context.store.get(job))))


def change_record(store: Store, job: str, **fields: str) -> None:
    """Change fields of a waiting job as the server's scripts do, which tell boxes of the change."""
    store.client.hset(f"{store.prefix}job:{job}", mapping=fields)  # type: ignore[arg-type]
    store.client.zadd(f"{store.prefix}news", {job: store.client.hincrby(f"{store.prefix}order", "seq")})


def own_queue(box: Box) -> list[str]:
    raw: list[str] = box.context.store.client.lrange(f"{box.context.store.prefix}box.{box.name}", 0, -1)  # type: ignore[assignment]
    return [json.loads(text)["headers"]["id"] for text in raw]


def join_tries() -> None:
    """Wait until every post-run task that was started has ended and reported."""
    for thread in threading.enumerate():
        if thread.name.startswith("postrun "):
            thread.join()
