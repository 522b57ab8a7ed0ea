"""A real ACT that starts from another job's checkpoint trains as one that is given the directory by hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pi0q.jobs import command
from pi0q.jobs.record import Record
from pi0q.jobs.spec import Spec
from pi0q.jobs.state import State
from tests import real_lerobot
from tests.workers.trainer.fork_server import ForkServer

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

pytestmark = [
    pytest.mark.real,
    real_lerobot.NEEDED,
]
ACT = {
    "type": "act",
    "device": "cpu",
    "push_to_hub": False,
    "dim_model": 64,
    "n_heads": 2,
    "dim_feedforward": 128,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "chunk_size": 8,
    "n_action_steps": 8,
    "pretrained_backbone_weights": None,
}


@pytest.fixture
def box(cluster: Cluster, standin_dataset: Path) -> Box:
    (cluster.place / "box-a" / "datasets").mkdir(parents=True)
    shutil.copytree(standin_dataset, cluster.place / "box-a" / "datasets" / "real")
    # The package and the tests, and no fake of anything.
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return cluster.box(PYTHONPATH=os.pathsep.join(paths), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")


@pytest.fixture
def by_hand(cluster: Cluster) -> Iterator[ForkServer]:
    server = ForkServer(cluster.place)
    yield server
    server.close()


def run(cluster: Cluster, box: Box, name: str, **policy: Any) -> Record:
    """Train two steps as a job, from a file as a user submits it."""
    train = {
        "dataset": {"repo_id": "local/grab_box", "root": "datasets/real", "episodes": [0]},
        "policy": {**ACT, **policy},
        "steps": 2,
        "save_freq": 2,
        "batch_size": 8,
        "num_workers": 0,
    }
    file = cluster.place / f"{name}.yaml"
    wanted = {"resources": {"gpus": 0, "disk": "10MiB"}, "preflight": {"rehearse": "never"}}
    file.write_text(yaml.safe_dump({"name": name, "train": train, **wanted}))
    said = cluster.pi0q("submit", str(file), "--json")
    assert said.returncode == 0, said.stderr
    record = cluster.ends(json.loads(said.stdout)["id"])
    assert record.state is State.SUCCEEDED, f"{record}\n{box.trainer_log(record.id)[-3000:]}"
    return record


def losses(box: Box, record: Record) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in box.events(record.id, "step")}


def test_a_job_trains_on_from_the_weights_of_another(cluster: Cluster, box: Box, by_hand: ForkServer) -> None:
    first = run(cluster, box, "first")
    second = run(cluster, box, "second", pretrained_path="job:first")
    directory = box.checkpoint(first.id, 2) / "pretrained_model"
    spec = Spec.from_json(second.spec)
    train = {**spec.train, "policy.pretrained_path": str(directory)}
    built = command.fresh(
        replace(spec, train=train),
        lerobot=real_lerobot.VERSION,
        output_dir=str(cluster.place / "by-hand"),
        run_id="by-hand",
        dataset_root=str(box.home / "datasets" / "real"),
    )
    life = by_hand.live("by-hand", list(built.argv[1:]))
    assert life.code == 0, life.log.read_text()[-3000:]
    assert losses(box, second) == life.losses()
    # From random weights the same batch has another loss.
    assert losses(box, second)[1] != losses(box, first)[1]
    third = run(cluster, box, "third", pretrained_path=f"job:{first.id}@2")
    assert losses(box, third) == losses(box, second)
