"""What trainers wrote for SwanLab, sent by the real `swanlab sync` to a stand-in of its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pi0q.jobs.record import Event, Record, from_hash
from pi0q.jobs.spec import Spec, parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.workers.postrun import swanlab_sync
from pi0q.workers.postrun.scheduler import RetryLater, TaskContext
from pi0q.workers.runs import swanlab_runs
from pi0q.workers.runs.postrun_tasks import PostrunTask
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.trainer.launch import HOOK
from tests.workers.standin_swanlab import StandInSwanLab

JOB = "a1a1a1a1a1a1"
KEY = "k" * 22
RUN = f"pi0q-{JOB}"
#: Lives of a trainer by the hook's own tracker: each LOW-HIGH logs these steps; `+kill` dies there, at once.
LIVES = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pi0q_trainer.swanlab_run import SwanLabRun
del sys.path[0]
said, (low, high), end = json.loads(sys.argv[2]), map(int, sys.argv[3].split("-")), sys.argv[4]
run = SwanLabRun(said)
run.begin({"steps": 100})
for step in range(low, high):
    run.log({"train/loss": 1 / step, "train/lr": 0.1}, step)
run.flush()
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
run.end(int(end))
"""


def job(more: str = "") -> Spec:
    text = f"tracking: swanlab\n{more}resources: {{gpus: 0, disk: 1MiB}}\n"
    return parse(text + "train: {dataset: {repo_id: a/b}, policy: {type: act}}", filename="x")


@pytest.fixture
def swanlab() -> Iterator[StandInSwanLab]:
    pytest.importorskip("swanlab")
    with StandInSwanLab() as standin:
        standin.keys[KEY] = "ada"
        yield standin


@pytest.fixture
def settings(chosen: Settings, swanlab: StandInSwanLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    for name in [name for name in os.environ if name.startswith("SWANLAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SWANLAB_API_HOST", swanlab.url)
    monkeypatch.setenv("SWANLAB_WEB_HOST", swanlab.url)
    monkeypatch.setenv("SWANLAB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    return replace(chosen, network_turbo=chosen.home / "network_turbo")


@pytest.fixture
def directory(settings: Settings) -> RunDirectory:
    place = RunDirectory(settings.runs / JOB)
    place.path.mkdir(parents=True)
    return place


def lived(directory: RunDirectory, steps: str, *, end: str = "0") -> None:
    """One life of a trainer."""
    said = {"id": RUN, "project": "lerobot", "name": "n", "dir": str(directory.swanlab)}
    argv = [sys.executable, "-c", LIVES, str(HOOK.parent), json.dumps(said), steps, end]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, -9), done.stderr


def context(settings: Settings, directory: RunDirectory, record: Record | None = None) -> TaskContext:
    known = {"id": JOB, "name": "n", "state": "succeeded", "created_ms": "5", "box": "box-a", "wandb_run_id": RUN}
    task = swanlab_sync.task_for(job(), directory, epoch=1, box="box-a", python=sys.executable)
    return TaskContext(
        task=task or PostrunTask(kind="swanlab", epoch=1, box="box-a"), settings=settings, directory=directory,
        record=record or from_hash(known), say=lambda _: None, stopping=threading.Event(),
    )  # fmt: skip


def test_killed_and_resumed_lives_become_one_run_and_no_step_is_there_twice(
    settings: Settings, directory: RunDirectory, swanlab: StandInSwanLab
) -> None:
    # A life that still trains, as far as can be seen: its runner lives.
    directory.write_pidfile(JOB, 1)
    lived(directory, "1-6", end="kill")
    swanlab_sync.work(context(settings, directory))
    assert swanlab.steps(RUN) == [1, 2, 3, 4, 5], "what a kill leaves is on the disk"
    assert swanlab.states[RUN][-1] == "RUNNING"
    directory.pidfile.unlink()
    # It died two steps behind its checkpoint; the next one goes on from there.
    lived(directory, "4-8")
    done = swanlab_sync.work(context(settings, directory))
    assert list(swanlab.runs) == [RUN] and swanlab.made[RUN]["name"] == "n"
    assert swanlab.steps(RUN) == swanlab.steps(RUN, "train/lr") == [1, 2, 3, 4, 5, 6, 7]
    assert swanlab.states[RUN][-1] == "FINISHED"
    assert done.fields == {"swanlab_url": f"{swanlab.url}/@ada/lerobot/runs/{RUN}"}
    assert not swanlab_runs.unsent(directory)
    assert swanlab_sync.work(context(settings, directory)).detail == "no SwanLab data of the run is left on this box"


def test_a_server_that_fails_midway_gets_the_rest_later(
    settings: Settings, directory: RunDirectory, swanlab: StandInSwanLab
) -> None:
    lived(directory, "1-4")
    swanlab.status = 403
    with pytest.raises(RetryLater, match=r"`swanlab sync` of run-.* failed: "):
        swanlab_sync.work(context(settings, directory))
    assert swanlab_runs.unsent(directory)
    swanlab.status = 200
    swanlab_sync.work(context(settings, directory))
    assert swanlab.steps(RUN) == [1, 2, 3]
    # A worker that died before it wrote that down sends the same again: nothing is there twice.
    for mark in directory.swanlab.rglob(swanlab_runs.MARK):
        mark.unlink()
    swanlab_sync.work(context(settings, directory))
    assert swanlab.steps(RUN) == [1, 2, 3]


@pytest.mark.parametrize(
    ("state", "slowly", "words"),
    [
        ("none", True, f"box-a has no SwanLab key: run `swanlab login` on it, then `pi0q retry {JOB}`"),
        ("refused", True, "SwanLab refuses the key of box-a"),
        ("away", False, "SwanLab does not answer"),
    ],
)
def test_what_keeps_it_from_being_sent(
    settings: Settings, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, state: str, slowly: bool, words: str
) -> None:
    stub(directory, "run-20261130_000000-x", 2000)
    match state:
        case "none":
            monkeypatch.delenv("SWANLAB_API_KEY")
        case "refused":
            monkeypatch.setenv("SWANLAB_API_KEY", "x" * 22)
        case "away":
            monkeypatch.setenv("SWANLAB_API_HOST", "http://127.0.0.1:1")
    with pytest.raises(RetryLater, match=words) as told:
        swanlab_sync.work(context(settings, directory))
    assert told.value.slowly is slowly and KEY not in str(told.value)


def stub(directory: RunDirectory, name: str, size: int) -> Path:
    """A life, as far as can be seen without reading it."""
    path = directory.swanlab / name
    path.mkdir(parents=True)
    (path / "run-x.swanlab").write_bytes(b"s" * size)
    return path


def test_a_life_without_a_number_is_none_and_one_that_grew_is_sent_again(directory: RunDirectory) -> None:
    stub(directory, "run-20261130_000001-x", 7)
    path = stub(directory, "run-20261130_000002-x", 2000)
    (directory.swanlab / ".gitignore").write_text("*")
    (life,) = swanlab_runs.unsent(directory)
    assert life.path == path
    life.mark_sent(2000)
    assert not swanlab_runs.unsent(directory)
    with (path / "run-x.swanlab").open("ab") as file:
        file.write(b"s" * 1000)
    assert swanlab_runs.megabytes(swanlab_runs.unsent(directory)) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("spec", "makes"),
    [
        (job(), True),
        (job("swanlab: {mode: offline}\n"), False),
        (job("rehearsal: true\n"), False),
        (parse("train: {dataset: {repo_id: a/b}, policy: {type: act}}", filename="x"), False),
    ],
)
def test_only_an_online_run_of_a_job_that_reports_to_swanlab_is_sent(
    directory: RunDirectory, spec: Spec, makes: bool
) -> None:
    stub(directory, "run-20261130_000000-x", 2000)
    assert (swanlab_sync.task_for(spec, directory, epoch=1, box="box-a") is not None) is makes


def test_what_an_earlier_box_keeps_is_sent_first_unless_that_box_is_gone(
    settings: Settings, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(directory, "run-20261130_000000-x", 2000)
    monkeypatch.delenv("SWANLAB_API_KEY")
    kept = {"box-b": {"state": "pending"}, "box-c": {"state": "done"}}
    known = {"id": JOB, "name": "n", "state": "running", "created_ms": "5", "swanlab_sync": json.dumps(kept)}
    history = [event(1, "box-b"), event(2, "box-a"), event(2, None)]
    here = context(settings, directory, replace(from_hash(known), history=tuple(history)))
    here = replace(here, task=replace(here.task, epoch=2))
    with pytest.raises(RetryLater, match="box-b sends first what came before"):
        swanlab_sync.work(here)
    gone = replace(here, task=replace(here.task, tries=swanlab_sync.PATIENCE_TRIES))
    with pytest.raises(RetryLater, match="no SwanLab key"):
        swanlab_sync.work(gone)
    # Once it sent something itself there is nothing left to wait for.
    swanlab_runs.lives(directory)[0].mark_sent(1000)
    with pytest.raises(RetryLater, match="no SwanLab key"):
        swanlab_sync.work(here)
    # What came after is not waited for.
    assert swanlab_sync.earlier_boxes(replace(here, task=replace(here.task, epoch=1, box="box-b"))) == []


def event(epoch: int, box: str | None) -> Event:
    return Event(at_ms=epoch, state=State.RUNNING, epoch=epoch, box=box, reason=None, text="")


def test_a_training_that_goes_on_is_sent_now_and_then(settings: Settings, directory: RunDirectory) -> None:
    stub(directory, "run-20261130_000000-x", 2000)
    fields = {"spec": json.dumps(job().to_json())}
    directory.ledger.write_text(json.dumps({"job_id": JOB, "epoch": 2, "box": "box-a", "boot": "b", "fields": fields}))
    ((tasks, task),) = swanlab_sync.found(settings, "box-a")
    # It is no news before it was tried: `told`.
    assert (task.kind, task.epoch, task.told) == ("swanlab", 2, True)
    tasks.add(task)
    assert list(swanlab_sync.found(settings, "box-a")) == [], "one at a time"
    tasks.drop(task)
    assert list(swanlab_sync.found(settings, "box-b")) == [], "another box's"
    (life,) = swanlab_runs.unsent(directory)
    life.mark_sent(1000)
    assert list(swanlab_sync.found(settings, "box-a")) == [], "sent a moment ago"
