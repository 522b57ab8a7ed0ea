"""SwanLab's offline run by the real `swanlab`, of this interpreter's LeRobot on the CPU, sent to a stand-in server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pi0q.workers.postrun import swanlab_sync
from tests import real_lerobot
from tests.workers.standin_swanlab import StandInSwanLab
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer

pytestmark = [pytest.mark.real, real_lerobot.NEEDED]

RUN = "pi0q-a1"


def test_act_killed_and_resumed_is_one_run_with_each_step_once(home: ForkServer) -> None:
    pytest.importorskip("swanlab")
    place, runs = home.place, home.place / "swanlab"
    said = json.dumps({"id": RUN, "project": "p", "workspace": "", "name": "grab", "dir": str(runs)})
    flags = [*fork_server.common(place, steps=8, num_workers=0, save_freq=4, log_freq=1), *fork_server.ACT]
    output = place / "swanlab_output"
    killed = home.live("sw-killed", [*flags, f"--output_dir={output}"], end="SIGKILL@6", PI0Q_SWANLAB=said)
    assert killed.code == -9 and killed.saved() == [4], killed.log.read_text()[-3000:]
    resumed = home.live(
        "sw-resumed", [*fork_server.resume(output, 4), *fork_server.common(place, steps=8, log_freq=1)],
        PI0Q_SWANLAB=said,
    )  # fmt: skip
    assert resumed.code == 0, resumed.log.read_text()[-3000:]
    assert [event["run_id"] for event in (*killed.of("swanlab"), *resumed.of("swanlab"))] == [RUN, RUN]
    assert not killed.of("wandb") and not resumed.of("tracker_failed")

    with StandInSwanLab() as server:
        server.keys["k" * 22] = "ada"
        for life in sorted(runs.glob("run-*")):
            send(life, server)
        assert server.steps(RUN) == list(range(1, 9)) and list(server.runs) == [RUN]
        losses = {step: value for key, step, value in server.runs[RUN] if key == "train/loss"}
        assert losses == pytest.approx(killed.losses() | resumed.losses())
        # What ACT tells of its loss, and the rest of what LeRobot tells WandB.
        assert {"train/l1_loss", "train/grad_norm", "train/lr", "train/update_s"} <= {
            key for key, _, _ in server.runs[RUN]
        }
        assert server.states[RUN][-1] == "FINISHED"


def send(life: Path, server: StandInSwanLab) -> None:
    env = {**os.environ, "SWANLAB_API_HOST": server.url, "SWANLAB_WEB_HOST": server.url, "SWANLAB_API_KEY": "k" * 22}
    argv = [sys.executable, "-c", swanlab_sync.COMMAND, "sync", "--id", RUN, str(life)]
    subprocess.run(argv, env=env, cwd=life.parent.parent, check=True, timeout=300)
