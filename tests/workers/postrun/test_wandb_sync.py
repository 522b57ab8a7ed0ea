"""WandB runs that were kept on a box, synced by the real `wandb` into a stand-in of WandB."""

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

from pi0q.jobs.record import Record, from_hash, to_hash
from pi0q.jobs.spec import parse
from pi0q.queue.settings import Settings
from pi0q.workers.postrun import wandb_sync
from pi0q.workers.postrun.scheduler import RetryLater, TaskContext
from pi0q.workers.runs import wandb_runs
from pi0q.workers.runs.ledger import Ledger
from pi0q.workers.runs.postrun_tasks import PostrunTask
from pi0q.workers.runs.run_directory import RunDirectory
from pi0q.workers.runs.wandb_runs import LEFT
from tests.workers.standin_wandb import StandInWandB

KEY = "k" * 40
SPEC = parse(
    "resources: {gpus: 0, disk: 1MiB}\n"
    "train: {dataset: {repo_id: a/b}, policy: {type: act}, wandb: {enable: true, project: p}}",
    filename="x",
)
#: Logs rows from..to of a run, as LeRobot does, then ends.
LOGS = """
import sys, wandb
run, place, mode, low, high = sys.argv[1:]
wandb.init(id=run, project="p", dir=place, mode=mode, resume="allow", save_code=False)
for step in range(int(low), int(high)):
    wandb.log({"train/loss": 1 / step}, step=step)
wandb.finish()
"""


@pytest.fixture
def wandb() -> Iterator[StandInWandB]:
    with StandInWandB() as standin:
        standin.keys[KEY] = "ada"
        yield standin


@pytest.fixture
def settings(chosen: Settings, wandb: StandInWandB, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", wandb.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    return replace(chosen, network_turbo=chosen.home / "network_turbo")


@pytest.fixture
def directory(settings: Settings) -> RunDirectory:
    place = RunDirectory(settings.runs / "a1a1a1a1a1a1")
    place.path.mkdir(parents=True)
    return place


def logged(place: Path, low: int, high: int, *, mode: str = "offline", run: str = "pi0q-a1") -> Path:
    """A WandB run directory of these steps."""
    place.mkdir(parents=True, exist_ok=True)
    before = set(place.glob("wandb/*"))
    argv = [sys.executable, "-c", LOGS, run, str(place), mode, str(low), str(high)]
    subprocess.run(argv, env={**os.environ, "WANDB_SILENT": "true"}, check=True, timeout=300)
    (made,) = (path for path in set(place.glob("wandb/*run-*")) - before if not path.is_symlink())
    return made


def stub(place: Path, name: str) -> Path:
    """The same, as far as can be seen without reading it."""
    path = place / "wandb" / name
    path.mkdir(parents=True)
    (path / f"run-{wandb_runs.run_id(path)}.wandb").write_bytes(b"w" * 2000)
    return path


def context(settings: Settings, directory: RunDirectory, record: Record | None = None) -> TaskContext:
    known = {"id": "a1a1a1a1a1a1", "name": "n", "state": "succeeded", "created_ms": "5", "box": "box-a"}
    task = wandb_sync.task_for(SPEC, directory, epoch=1, box="box-a", python=sys.executable)
    return TaskContext(
        task=task or PostrunTask(kind="wandb", epoch=1, box="box-a"), settings=settings, directory=directory,
        record=record or from_hash(known), say=lambda _: None, stopping=threading.Event(),
    )  # fmt: skip


def test_several_attempts_become_one_run(settings: Settings, directory: RunDirectory, wandb: StandInWandB) -> None:
    pytest.importorskip("wandb")
    # The output of the first attempt was set aside: the second began from step 0 again.
    logged(directory.output, 1, 4)
    directory.set_output_aside()
    logged(directory.output, 4, 7)
    done = wandb_sync.work(context(settings, directory))
    assert wandb.steps("pi0q-a1") == [1, 2, 3, 4, 5, 6]
    assert done.fields == {"wandb_url": f"{wandb.url}/ada/p/runs/pi0q-a1"} and done.detail == "synced 2 runs"
    assert not wandb_runs.unsynced(directory)
    # Nothing of it lies outside the data disk, and nothing is left to sync.
    assert not list(settings.home.parent.glob("wandb*"))
    assert wandb_sync.work(context(settings, directory)).detail == "no WandB data of the run is left on this box"
    assert wandb.steps("pi0q-a1") == [1, 2, 3, 4, 5, 6]


def test_an_offline_first_attempt_comes_into_the_run_that_is_online(
    settings: Settings, directory: RunDirectory, wandb: StandInWandB
) -> None:
    pytest.importorskip("wandb")
    logged(directory.output, 1, 4)
    logged(directory.output, 4, 7, mode="online")
    assert wandb.steps("pi0q-a1") == [4, 5, 6]
    known = {
        "id": "a1a1a1a1a1a1",
        "name": "n",
        "state": "succeeded",
        "created_ms": "5",
        "box": "box-a",
        "wandb_url": "https://w/u",
    }
    wandb_sync.work(context(settings, directory, from_hash(known)))
    assert sorted(wandb.steps("pi0q-a1")) == [1, 2, 3, 4, 5, 6], "nothing was written over"


def test_a_run_that_was_deleted_meanwhile_is_synced_into_a_new_one(
    settings: Settings, directory: RunDirectory, wandb: StandInWandB
) -> None:
    pytest.importorskip("wandb")
    logged(directory.output, 1, 4)
    wandb.remove("pi0q-a1")
    done = wandb_sync.work(context(settings, directory))
    assert wandb.steps("pi0q-a1.2") == [1, 2, 3]
    assert done.fields["wandb_url"].endswith("/runs/pi0q-a1.2")


@pytest.mark.parametrize(
    ("state", "slowly", "words"),
    [
        ("none", True, "box-a has no WandB key: run `wandb login` on it, then `pi0q retry a1a1a1a1a1a1`"),
        ("refused", True, "WandB refuses the key of box-a"),
        ("away", False, "WandB does not answer"),
    ],
)
def test_what_keeps_it_from_being_synced(
    settings: Settings, directory: RunDirectory, wandb: StandInWandB, monkeypatch: pytest.MonkeyPatch,
    state: str, slowly: bool, words: str,
) -> None:  # fmt: skip
    stub(directory.output, "offline-run-20261122_120000-pi0q-a1")
    if state == "none":
        monkeypatch.delenv("WANDB_API_KEY")
    elif state == "refused":
        wandb.keys.clear()
    else:
        wandb.status = 503
    with pytest.raises(RetryLater) as refused:
        wandb_sync.work(context(settings, directory))
    assert words in str(refused.value) and refused.value.slowly is slowly


def test_a_sync_that_fails_says_its_last_words_without_the_key(
    settings: Settings, directory: RunDirectory, tmp_path: Path
) -> None:
    stub(directory.output, "offline-run-20261122_120000-pi0q-a1")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho one\necho 'no good: {KEY}'\nexit 1\n")
    python.chmod(0o755)
    work = context(settings, directory)
    task = replace(work.task, order={"python": str(python)})
    with pytest.raises(RetryLater, match=r"`wandb sync` of offline-run-\S+ failed: it ended with 1: no good: \*\*\*$"):
        wandb_sync.work(replace(work, task=task))


@pytest.mark.parametrize(
    ("dirs", "more", "append"),
    [
        (1, {}, False),
        (1, {"wandb_url": "https://w/u"}, False),
        (1, {"continues": "a0" * 6}, True),
        (2, {}, False),
        (2, {"wandb_url": "https://w/u"}, True),
    ],
)
def test_nothing_that_wandb_has_already_is_written_over(
    settings: Settings, directory: RunDirectory, dirs: int, more: dict[str, str], append: bool
) -> None:
    for hour in range(dirs):
        stub(directory.output, f"offline-run-20261122_1{hour}0000-pi0q-a1")
    known = {"id": "a1a1a1a1a1a1", "name": "n", "state": "succeeded", "created_ms": "5", "box": "box-a", **more}
    assert wandb_sync._has_begun(context(settings, directory, from_hash(known))) is append


def test_which_runs_are_kept_here(directory: RunDirectory) -> None:
    first = stub(directory.output, "offline-run-20261122_120000-pi0q-a1")
    online = stub(directory.output, "run-20261122_130000-pi0q-a1")
    assert wandb_runs.unsynced(directory) == [first]
    (online / LEFT).touch()
    assert wandb_runs.unsynced(directory) == [first, online], "it ended before WandB had all of it"
    (directory.output / "wandb" / "latest-run").symlink_to(online.name)
    directory.set_output_aside()
    last = stub(directory.output, "offline-run-20261122_140000-pi0q-a1")
    moved = [directory.wandb / path.name for path in (first, online)]
    assert wandb_runs.unsynced(directory) == [*moved, last]
    (last / "run-pi0q-a1.wandb.synced").touch()
    assert wandb_runs.unsynced(directory) == moved
    assert wandb_runs.megabytes(moved) == 0.004


def test_what_a_trainer_may_be_writing_is_left_alone(directory: RunDirectory) -> None:
    before = stub(directory.output, "offline-run-20261122_120000-pi0q-a1")
    os.utime(before / "run-pi0q-a1.wandb", (1, 1))
    directory.write_pidfile("a1a1a1a1a1a1", 2)
    stub(directory.output, "offline-run-20261122_130000-pi0q-a1")
    assert wandb_runs.unsynced(directory) == [before]
    assert len(wandb_runs.unsynced(directory, over=True)) == 2
    # Its runner has written its tasks: it lives, and is through with its trainer.
    assert len(wandb_runs.unsynced(directory, ended=2)) == 2
    assert wandb_runs.unsynced(directory, ended=1) == [before]


def test_only_what_its_user_wants_online_is_synced(directory: RunDirectory) -> None:
    stub(directory.output, "offline-run-20261122_120000-pi0q-a1")

    def task_for(**wandb: object) -> PostrunTask | None:
        flags = {"dataset": {"repo_id": "a/b"}, "policy": {"type": "act"}, "wandb": wandb}
        text = json.dumps({"resources": {"gpus": 0, "disk": "1MiB"}, "train": flags})
        return wandb_sync.task_for(parse(text, filename="x"), directory, epoch=3, box="b")

    made = task_for(enable=True)
    assert made and (made.kind, made.epoch, made.result) == ("wandb", 3, {"mb": 0.002})
    assert task_for(enable=True, mode="online")
    assert not task_for(enable=True, mode="offline") and not task_for(enable=False)


def test_what_a_killed_runner_could_not_write_down_is_found(settings: Settings, directory: RunDirectory) -> None:
    stub(directory.output, "offline-run-20261122_120000-pi0q-a1")
    assert list(wandb_sync.found(settings, "box-a")) == []
    fields = to_hash({"spec": SPEC.to_json()})
    Ledger(job_id="a1a1a1a1a1a1", epoch=4, box="box-a", boot="1", fields=fields).write(directory.ledger)
    ((tasks, task),) = wandb_sync.found(settings, "box-a")
    assert (tasks.path, task.kind, task.epoch) == (directory.path, "wandb", 4)
    assert list(wandb_sync.found(settings, "box-b")) == []
    tasks.add(task)
    assert list(wandb_sync.found(settings, "box-a")) == [], "once is enough"
