"""A training that this interpreter's LeRobot began by hand goes on as a job: ACT on the CPU, nothing faked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import real_lerobot
from tests.rig.cluster import PATIENCE, wait

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster

pytestmark = [
    pytest.mark.real,
    real_lerobot.NEEDED,
]
#: A small ACT that trains for hours: it is ended once it has shown that it goes on.
FLAGS = (
    *("--dataset.repo_id=local/grab_box", "--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false"),
    *("--policy.dim_model=64", "--policy.n_heads=2", "--policy.dim_feedforward=128", "--policy.n_encoder_layers=1"),
    *("--policy.n_vae_encoder_layers=1", "--policy.chunk_size=8", "--policy.n_action_steps=8"),
    *("--policy.pretrained_backbone_weights=null", "--batch_size=2", "--steps=100000", "--save_freq=5"),
    *("--log_freq=5", "--num_workers=0"),
)


def train_by_hand(box: Box, output: Path) -> None:
    """Train as somebody does in a shell, and end it after its first checkpoint."""
    argv = [sys.executable, "-m", "lerobot.scripts.lerobot_train", *FLAGS]
    argv += [f"--dataset.root={box.home}/datasets/real", f"--output_dir={output}"]
    log = output.with_suffix(".log")
    log.parent.mkdir(parents=True)
    with log.open("wb") as file, subprocess.Popen(argv, env=box.env, stdout=file, stderr=file) as trainer:
        try:
            wait((output / "checkpoints" / "last").is_symlink, "a checkpoint made by hand", log.read_text)
        finally:
            trainer.kill()


def test_adopted_training_of_real_lerobot_goes_on(cluster: Cluster, standin_dataset: Path) -> None:
    home = cluster.place / "box-a"
    (home / "datasets").mkdir(parents=True)
    shutil.copytree(standin_dataset, home / "datasets" / "real")
    # The package and the tests, and no fake of anything.
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    box = cluster.box(PYTHONPATH=os.pathsep.join(paths), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="2")
    output = cluster.place / "outputs" / "by_hand"
    train_by_hand(box, output)
    argv = [sys.executable, "-m", "pi0q.queue.cli", "import", "--adopt", str(output), "--json"]
    said = subprocess.run(argv, env=box.env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.returncode == 0, said.stderr
    made = json.loads(said.stdout)
    box.sealed(made["job_id"], made["step"] + 5)
    cluster.store.cancel(made["job_id"], text="enough was seen")
    done = cluster.ends(made["job_id"])
    assert [event["step"] for event in box.events(made["job_id"], "ready")] == [made["step"]]
    assert done.checkpoint and done.checkpoint.step > made["step"] >= 5
