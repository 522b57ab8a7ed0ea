"""A dataset of the Hub is looked into by its small files before any claim; a local one against weights of the Hub."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import parse
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.agent.box import Box
from pi0q.workers.hub.access_main import MOST_META, looked_into
from pi0q.workers.hub.blobs import Blob
from pi0q.workers.hub.requirements import PALIGEMMA
from pi0q.workers.trainer.interpreter import TrainerPython
from tests.conftest import WaitFor
from tests.standin_hub import TOKEN, StandInHub
from tests.workers.conftest import a_box

TOP = "observation.images.top"
VECTOR: dict[str, Any] = {"dtype": "float32", "shape": [6], "names": None}
FEATURES = {
    TOP: {"dtype": "image", "shape": [32, 32, 3], "names": ["height", "width", "channel"]},
    "observation.state": VECTOR,
    "action": VECTOR,
}
STATS: dict[str, dict[str, Any]] = {
    TOP: {"mean": [[[0.0]]] * 3, "std": [[[1.0]]] * 3},
    "observation.state": {"mean": [0.0] * 6, "std": [1.0] * 6},
    "action": {"mean": [0.0] * 6, "std": [1.0] * 6},
}
BASE = {
    "type": "smolvla",
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [6]},
        "observation.images.base_0_rgb": {"type": "VISUAL", "shape": [3, 224, 224]},
    },
}


def files(**change: Any) -> dict[str, bytes]:
    """The files of a small dataset without a fault, as they lie on the Hub; `change` by the name of a file in meta/."""
    pandas = pytest.importorskip("pandas")
    info = {"codebase_version": "v3.0", "fps": 10, "total_episodes": 1, "total_tasks": 1, "features": FEATURES}
    row = {"episode_index": 0, "dataset_from_index": 0, "dataset_to_index": 5, "tasks": ["grab the box"]}
    tables = {
        "meta/tasks.parquet": pandas.DataFrame({"task_index": [0]}, index=["grab the box"]),
        "meta/episodes/chunk-000/file-000.parquet": pandas.DataFrame([row]),
    }
    found = {"meta/info.json": json.dumps(info | change.get("info", {})).encode()}
    # Too large to be looked into.
    found["data/chunk-000/file-000.parquet"] = b"x" * MOST_META
    found["meta/stats.json"] = json.dumps(change.get("stats", STATS)).encode()
    for name, table in tables.items():
        packed = io.BytesIO()
        table.to_parquet(packed)
        found[name] = packed.getvalue()
    return {name: content for name, content in found.items() if name not in change.get("without", ())}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        hub.commit("dataset", "you/box", files(), refs=("main", "v3.0"))
        hub.commit("model", PALIGEMMA, {"config.json": b"{}", "tokenizer.json": b"{}"}, gated=True)
        yield hub


@pytest.fixture
def far(
    chosen: Settings, store: Store, hub: StandInHub, roomy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Box]:
    """A box whose Hub is the stand-in, and whose trainer's Python can read tables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "WANDB_"))}
    root = str(Path(__file__).parents[3])
    paths = os.pathsep.join(filter(None, [*(place for place in sys.path if place), root]))
    monkeypatch.setattr(os, "environ", clean | {"HOME": str(tmp_path), "HF_TOKEN": TOKEN, "PYTHONPATH": paths})
    box = a_box(replace(chosen, hf_endpoint=hub.url, hf_mirror="", network_turbo=tmp_path / "none"), store)
    box.context.trainer = TrainerPython(python=sys.executable, lerobot="0.6.1")
    # As the agent's health check does before the first look at the queue.
    box.claims.admission.preflight.trainer = box.context.trainer
    yield box
    if pool := box.claims.admission.preflight._pool:
        pool.shutdown()


def ask(store: Store, **train: Any) -> str:
    flags = {"dataset.repo_id": "you/box", "policy.push_to_hub": False, "steps": 10, **train}
    if "policy.path" not in flags:
        flags.setdefault("policy.type", "act")
    needs = {"gpus": 1, "vram": "20GiB", "disk": "1MiB"}
    spec = parse(json.dumps({"resources": needs, "train": flags}), filename="far.yaml")
    return str(put(store, new_fields(spec))["id"])


def settled(box: Box, store: Store, job: str, wait_for: WaitFor) -> Record:
    def over() -> Record | None:
        box.claims.claim()
        record = store.get(job)
        return record if record.state is not State.QUEUED else None

    found: Record = wait_for(over)
    return found


def test_a_dataset_without_a_fault_is_claimed(far: Box, store: Store, wait_for: WaitFor) -> None:
    assert settled(far, store, ask(store), wait_for).state is State.CLAIMED


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "quantiles of pi05": (
        {}, {"policy.type": "pi05"},
        ("q01 and q99", "augment_dataset_quantile_stats --repo-id=you/bad`", "normalization_mapping"),
    ),
    "a camera's statistics": ({"stats": {}}, {}, ("lack the camera", "then let the job go on")),
    "no statistics": ({"without": ["meta/stats.json"]}, {}, ("has no statistics", "meta/stats.json")),
    "no table of tasks": ({"without": ["meta/tasks.parquet"]}, {}, ("meta/tasks.parquet is missing",)),
    "axes without names": (
        {"info": {"features": {**FEATURES, TOP: {**FEATURES[TOP], "names": None}}}}, {}, ("have no names",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_dataset_holds_the_job_before_any_claim(
    name: str, far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    change, train, words = FAULTS[name]
    hub.commit("dataset", "you/bad", files(**change), refs=("main", "v3.0"))
    job = ask(store, **{"dataset.repo_id": "you/bad", **train})
    record = settled(far, store, job, wait_for)
    assert (record.state, record.reason, record.epoch) == (State.WAITING, Reason.HELD, 0)
    assert all(word in record.held for word in words), record.held
    assert store.lacking() == [], "no directory of a box cures it: its user lets it go on"

    hub.commit("dataset", "you/bad", files(stats={**STATS, **quantiles()}), refs=("main", "v3.0"))
    store.release(job)
    mended = settled(far, store, job, wait_for)
    assert mended.state is State.CLAIMED


def quantiles() -> dict[str, Any]:
    more = {"q01": [-1.0] * 6, "q99": [1.0] * 6}
    return {name: {**STATS[name], **more} for name in ("observation.state", "action")}


def test_cameras_that_the_base_does_not_know_end_the_job_with_both_names(
    far: Box, store: Store, hub: StandInHub, wait_for: WaitFor
) -> None:
    hub.commit("model", "you/base", {"config.json": json.dumps(BASE).encode(), "model.safetensors": b"x"})
    record = settled(far, store, ask(store, **{"policy.path": "you/base"}), wait_for)
    assert (record.state, record.reason, record.epoch) == (State.FAILED, Reason.SPEC_REFUSED, 0)
    assert f"the dataset has {TOP}; the policy takes observation.images.base_0_rgb" in record.detail
    assert "train.rename_map" in record.detail


def test_small_files_are_chosen_by_their_size() -> None:
    def sized(**sizes: int) -> dict[str, Blob]:
        names = {"stats": "meta/stats.json", "tasks": "meta/tasks.parquet", "data": "data/chunk-000/file-000.parquet"}
        names |= {f"e{n}": f"meta/episodes/chunk-000/file-00{n}.parquet" for n in range(3)}
        return {names[name]: Blob(name="0", size=size) for name, size in sizes.items()}

    assert looked_into(sized(stats=10, tasks=10, e0=10, data=10)) == [
        "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    ]  # fmt: skip
    assert looked_into(sized(stats=10, tasks=10, e0=10, data=MOST_META)) == [
        "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
    ]  # fmt: skip
    assert looked_into(sized(stats=10, tasks=10, e0=10, e1=MOST_META)) == ["meta/stats.json", "meta/tasks.parquet"]
    assert looked_into(sized(stats=MOST_META + 1)) == []
