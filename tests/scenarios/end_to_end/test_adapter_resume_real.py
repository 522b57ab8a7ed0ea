"""A real LoRA training goes on from its copy on another box, where the base lies elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pi0q.jobs.state import State
from tests.rig.cluster import wait
from tests.scenarios.end_to_end.test_start_from_job_real import ACT

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("lerobot", "peft"))), reason="LeRobot and peft are not installed here"
    ),
]


def real_box(cluster: Cluster, dataset: Path, name: str) -> Box:
    (cluster.place / name / "datasets").mkdir(parents=True)
    shutil.copytree(dataset, cluster.place / name / "datasets" / "real")
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    times: dict[str, Any] = {"PI0Q_WAIT_FOR_BOX": "0", "PI0Q_LEASE_SECONDS": "60"}
    return cluster.box(name, PYTHONPATH=os.pathsep.join(paths), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", **times)


def submit(cluster: Cluster, name: str, share: Path, *, steps: int, **more: Any) -> str:
    train = {
        "dataset": {"repo_id": "local/grab_box", "root": "datasets/real", "episodes": [0]},
        "policy": {**ACT, **more.pop("policy", {})},
        "steps": steps,
        "save_freq": more.pop("save_freq", 2),
        "batch_size": 8,
        "num_workers": 0,
        **more,
    }
    file = cluster.place / f"{name}.yaml"
    wanted = {"resources": {"gpus": 0, "disk": "10MiB"}, "preflight": {"rehearse": "never"}}
    file.write_text(yaml.safe_dump({"name": name, "train": train, "checkpoints": {"copy_to": str(share)}, **wanted}))
    said = cluster.pi0q("submit", str(file), "--json")
    assert said.returncode == 0, said.stderr
    return str(json.loads(said.stdout)["id"])


def test_an_adapter_goes_on_where_its_base_lies_elsewhere(
    cluster: Cluster, standin_dataset: Path, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    first = real_box(cluster, standin_dataset, "box-a")
    base = cluster.ends(submit(cluster, "base", share, steps=2))
    assert base.state is State.SUCCEEDED
    cluster.until(base.id, lambda record: record.copied and record.copied.step == 2)
    adapter = {"peft": {"r": 4, "target_modules": ["linear1", "linear2"]}, "policy": {"pretrained_path": "job:base"}}
    job = submit(cluster, "adapter", share, steps=3000, save_freq=20, **adapter)
    cluster.until(job, lambda record: record.copied and record.copied.step >= 2, seconds=300)
    first.crash()
    shutil.rmtree(first.home)
    cluster.boxes.remove(first)
    second = real_box(cluster, standin_dataset, "box-b")
    second.says("Box box-b takes jobs")
    cluster.let_lease_run_out(job)
    wait(lambda: second.events(job, "saved"), "a save on box-b", lambda: said(second, job), seconds=300)
    begun, saved = second.events(job, "step")[0]["step"], second.events(job, "saved")[0]["step"]
    restored, made = (second.checkpoint(job, step) / "pretrained_model" for step in (begun - 1, saved))
    assert "PEFT adapter already loaded from checkpoint" in second.trainer_log(job)
    assert "/box-a/" in base_in(restored) and "/box-b/" in base_in(made)
    cluster.store.cancel(job, text="enough was seen")
    cluster.ends(job)


def base_in(model: Path) -> str:
    """Where a checkpoint of an adapter says that its base lies."""
    return str(json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"])


def said(box: Box, job: str) -> str:
    log = box.run_dir(job) / "trainer.log"
    return log.read_text() if log.exists() else box.log
