"""What a job reads from a box's disks before a claim: refused here, held where nobody has it, let go where one has."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.agent.box import Box
from pi0q.workers.trainer.interpreter import TrainerPython
from tests.conftest import Command, WaitFor
from tests.workers.conftest import a_box, refused

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def submit(store: Store, *, wait: str = "", **train: Any) -> str:
    flags = {"dataset": {"repo_id": "local/d", "root": "datasets/d"}, "policy": {"type": "act"}, "steps": 10, **train}
    text = {"resources": {"gpus": 1, "vram": "30GiB", "disk": "1MiB"}, "train": flags}
    if wait:
        text["preflight"] = {"wait_for_input": wait}
    return str(put(store, new_fields(parse(json.dumps(text), filename="job.yaml")))["id"])


def look(box: Box, job: str) -> None:
    """One look of a box at the queue, what it announces, and what follows."""
    box.claims.called = job
    box.claims.claim()
    box.announce()
    box.claims.admission.inputs._next_look = 0.0
    box.claims.settle_inputs()


def weights(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"x")
    return place


@pytest.fixture
def bare(chosen: Settings, store: Store, roomy: None) -> Box:
    """A box without the dataset."""
    return a_box(chosen, store)


# -- weights


def test_weights_that_are_not_on_a_box_keep_the_job_from_it(box: Box, store: Store, tmp_path: Path) -> None:
    """policy.pretrained_path as an absolute path that is not there: no claim, and no attempt."""
    place = tmp_path / "w"
    job = submit(store, policy={"type": "act", "pretrained_path": str(place)})
    box.claims.called = job
    box.claims.claim()
    assert f"weights: {place} is not on this box" in refused(box, job)
    weights(place)
    box.claims.jobs.expire()
    box.claims.claim()
    assert store.get(job).state is State.CLAIMED


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_weights_without_a_file_are_not_there(missing: str, box: Box, store: Store, tmp_path: Path) -> None:
    (weights(tmp_path / "w") / missing).unlink()
    job = submit(store, policy={"path": str(tmp_path / "w")})
    box.claims.called = job
    box.claims.claim()
    assert f"it has no {missing}" in refused(box, job)


def test_weights_that_git_lfs_has_not_fetched_name_its_command(box: Box, store: Store, tmp_path: Path) -> None:
    (weights(tmp_path / "w") / "model.safetensors").write_text(POINTER)
    job = submit(store, policy={"type": "act", "pretrained_path": str(tmp_path / "w")})
    box.claims.called = job
    box.claims.claim()
    assert f"cd {tmp_path / 'w'} && git lfs install && git lfs pull" in refused(box, job)


def test_an_adapter_alone_is_whole(box: Box, store: Store, tmp_path: Path) -> None:
    place = tmp_path / "w"
    place.mkdir()
    (place / "adapter_config.json").write_text('{"base_model_name_or_path": "lerobot/pi0"}')
    (place / "adapter_model.safetensors").write_bytes(b"x")
    job = submit(store, policy={"type": "act", "pretrained_path": str(place)})
    box.claims.called = job
    box.claims.claim()
    assert "is not on this box" not in refused(box, job)


# -- held, and let go on


def test_a_job_is_held_where_no_box_has_its_dataset_and_goes_on_where_one_gets_it(
    bare: Box, chosen: Settings, store: Store
) -> None:
    roots = (chosen.home / "datasets", chosen.home / "box-b/datasets")
    other = a_box(replace(chosen, dataset_roots=roots), store, "box-b")
    other.announce()
    job = submit(store)
    look(bare, job)
    assert store.get(job).state is State.QUEUED, "box-b is up and has not looked"
    look(other, job)
    held = store.get(job)
    assert (held.state, held.reason) == (State.WAITING, Reason.HELD)
    assert "holds no LeRobot dataset on this box" in held.held
    assert "(looked: box-a, box-b)" in held.held
    look(other, job)
    assert store.get(job).state is State.WAITING

    root = other.context.settings.home / "datasets/d/meta"
    root.mkdir(parents=True)
    (root / "info.json").write_text("{}")
    look(other, job)
    went_on = store.get(job)
    assert (went_on.held, went_on.lacks) == ("", {})
    assert any("box-b has what it reads" in event.text for event in went_on.history)
    look(other, job)
    assert (store.get(job).state, store.get(job).box) == (State.CLAIMED, "box-b")
    assert store.lacking() == []


def test_a_release_by_hand_queues_it_again_and_it_is_held_again(bare: Box, store: Store) -> None:
    job = submit(store)
    look(bare, job)
    assert store.get(job).state is State.WAITING
    store.release(job)
    assert (store.get(job).state, store.get(job).lacks) == (State.QUEUED, {})
    look(bare, job)
    assert store.get(job).state is State.WAITING


def test_a_job_that_a_user_holds_is_not_released_by_a_box(box: Box, store: Store) -> None:
    job = submit(store)
    store.hold(job, text="by ada")
    look(box, job)
    assert store.get(job).held == "by ada"


def test_a_job_fails_only_after_the_time_that_its_user_set(bare: Box, store: Store) -> None:
    waits, ends = submit(store), submit(store, wait="1h")
    for job in (waits, ends):
        look(bare, job)
    lacks = json.loads(str(store.client.hget(f"{store.prefix}job:{ends}", "lacks")))
    past = {**lacks, "since_ms": lacks["since_ms"] - 3_700_000}
    for job in (waits, ends):
        store.client.hset(f"{store.prefix}job:{job}", "lacks", json.dumps(past))
    look(bare, ends)
    assert store.get(waits).state is State.WAITING
    ended = store.get(ends)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.DATASET_MISSING)
    assert "nobody got what it reads in 3600 s" in ended.detail


# -- a dataset with a fault


def dataset(root: Path, **stats: Any) -> Path:
    """The files of meta/ of a dataset with one camera; `stats` by the last word of each feature."""
    camera = {"dtype": "image", "shape": [32, 32, 3], "names": ["height", "width", "channel"]}
    vector = {"dtype": "float32", "shape": [6], "names": None}
    names = {"top": "observation.images.top", "state": "observation.state", "action": "action"}
    features = {names["top"]: camera, names["state"]: vector, names["action"]: vector}
    info = {"codebase_version": "v3.0", "fps": 10, "total_episodes": 0, "total_tasks": 1, "features": features}
    (root / "meta").mkdir(parents=True, exist_ok=True)
    tasks = pytest.importorskip("pandas").DataFrame({"task_index": [0]}, index=["grab the box"])
    tasks.to_parquet(root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text(json.dumps({names[name]: one for name, one in stats.items()}))
    return root


VECTOR = {"mean": [0.0] * 6, "std": [1.0] * 6}
PICTURE = {"mean": [[[0.0]]] * 3, "std": [[[1.0]]] * 3}


@pytest.fixture
def reading(bare: Box) -> Box:
    """A box whose trainer's Python can read."""
    bare.context.trainer = TrainerPython(python=sys.executable, lerobot="0.6.1")
    return bare


def test_a_dataset_with_a_fault_is_held_for_it_and_goes_on_once_it_is_mended(
    reading: Box, store: Store, wait_for: WaitFor
) -> None:
    root = dataset(reading.context.settings.home / "datasets/d", state=VECTOR, action=VECTOR)
    job = submit(store)

    def is_held() -> bool:
        look(reading, job)
        return store.get(job).state is State.WAITING

    wait_for(is_held)
    held = store.get(job)
    assert "The statistics lack the camera observation.images.top" in held.held
    assert f"augment_dataset_quantile_stats --repo-id=local/d --root={root}" in held.held
    assert held.epoch == 0, "no box claimed it"
    dataset(root, state=VECTOR, action=VECTOR, top=PICTURE)

    def goes_on() -> bool:
        look(reading, job)
        return store.get(job).state is not State.WAITING

    wait_for(goes_on)


def test_a_fault_whose_cure_is_in_the_file_ends_the_job(reading: Box, store: Store, wait_for: WaitFor) -> None:
    root = reading.context.settings.home / "datasets/d"
    dataset(root, state=VECTOR, action=VECTOR, top=PICTURE)
    base = weights(reading.context.settings.home / "w")
    known = {"observation.images.base_0_rgb": {"type": "VISUAL", "shape": [3, 224, 224]}}
    (base / "config.json").write_text(json.dumps({"type": "act", "input_features": known}))
    job = submit(store, policy={"path": str(base)})

    def has_ended() -> bool:
        look(reading, job)
        return store.get(job).state is State.FAILED

    wait_for(has_ended)
    ended = store.get(job)
    assert (ended.reason, ended.epoch) == (Reason.SPEC_REFUSED, 0)
    assert "observation.images.top; the policy takes observation.images.base_0_rgb" in ended.detail
    assert "train.rename_map" in ended.detail


def test_a_dataset_that_can_not_be_looked_into_is_not_refused(box: Box, store: Store) -> None:
    assert replace(box.context).trainer == TrainerPython(python="/bin/false", lerobot="0.6.1")
    job = submit(store)
    box.claims.called = job
    box.claims.claim()
    assert store.get(job).state is State.CLAIMED


def test_submit_and_ls_say_that_no_box_has_the_dataset(
    bare: Box, store: Store, call: Command, tmp_path: Path, wait_for: WaitFor
) -> None:
    bare.announce()
    file, done = tmp_path / "far.yaml", threading.Event()
    flags = {"dataset": {"repo_id": "local/d", "root": "datasets/d"}, "policy": {"type": "act"}, "steps": 10}
    file.write_text(json.dumps({"resources": {"gpus": 1, "vram": "30GiB", "disk": "1MiB"}, "train": flags}))

    def work() -> None:
        # What the agent's thread does when a job comes.
        while not done.wait(0.02):
            bare.claims.claim()
            bare.announce()
            bare.claims.settle_inputs()

    agent = threading.Thread(target=work)
    agent.start()
    try:
        said = call("submit", str(file), "--json")
        (job,) = [job for job in store.page().jobs if job.name == "far"]
        wait_for(lambda: store.get(job.id).state is State.WAITING)
    finally:
        done.set()
        agent.join()
    assert said.returncode == 0
    assert f"far {job.id} is held because no box has what it reads: dataset: " in said.stderr
    assert "holds no LeRobot dataset on this box" in said.stderr
    assert "because no box has what it reads" in call("ls").stdout
    assert "holds no LeRobot dataset on this box" in call("why", job.id).stdout
