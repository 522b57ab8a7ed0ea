"""A training that was begun by hand on a box goes on there as a job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.cluster import PATIENCE, wait

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster


def begin_by_hand(box: Box, output: Path) -> None:
    """Train as somebody does in a shell, and end it after the checkpoint of step 20."""
    flags = [
        f"--dataset.root={box.home}/datasets/grab_box",
        *("--dataset.repo_id=local/grab_box", "--policy.type=act", "--policy.push_to_hub=false", "--batch_size=2"),
        *("--steps=60", "--save_freq=10", f"--output_dir={output}"),
    ]
    argv = [sys.executable, "-m", "lerobot.scripts.lerobot_train", *flags]
    with subprocess.Popen(argv, env=box.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as trainer:
        last = output / "checkpoints" / "last"
        wait(lambda: last.is_symlink() and last.readlink().name == "000020", "a checkpoint made by hand")
        busy = adopt(box, output)
        assert busy.returncode == 2 and f"Process {trainer.pid} still trains into" in busy.stderr
        trainer.kill()
    # The fake trainer knows two settings of pi0 for every policy.
    for config in output.glob("checkpoints/*/pretrained_model/train_config.json"):
        content = json.loads(config.read_text())
        for name in ("dtype", "compile_model"):
            content["policy"].pop(name, None)
        config.write_text(json.dumps(content, indent=4))


def adopt(box: Box, output: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pi0q.queue.cli", "import", "--adopt", str(output), "--json"]
    return subprocess.run(argv, env=box.env, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_adopted_training_goes_on_from_its_newest_checkpoint(cluster: Cluster) -> None:
    box = cluster.box()
    cluster.slow_down(21)
    output = cluster.place / "outputs" / "by_hand"
    begin_by_hand(box, output)
    cluster.speed_up()
    said = adopt(box, output)
    assert said.returncode == 0, said.stderr
    made = json.loads(said.stdout)
    assert made["box"] == "box-a" and made["step"] >= 20
    done = cluster.ends(made["job_id"])
    assert (str(done.state), done.step) == ("succeeded", 60)
    assert [event["step"] for event in box.events(made["job_id"], "ready")] == [made["step"]]
    assert (output / "checkpoints" / f"{made['step']:06d}").is_dir()
