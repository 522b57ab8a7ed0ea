"""The rehearsal of a real pi0 with this interpreter's LeRobot on the CPU: minutes, and less than 4 GiB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pi0q.ops.local import standins_main
from pi0q.workers.runner.rehearsal import LIMIT_SECONDS
from tests import real_lerobot

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Cluster

pytestmark = [
    pytest.mark.real,
    real_lerobot.NEEDED,
]
PI0 = {"policy": {"type": "pi0", "dtype": "bfloat16", "device": "cpu", "push_to_hub": False}, "num_workers": 0}


@real_lerobot.PI0_NEEDED
def test_a_real_pi0_is_rehearsed_on_the_cpu(cluster: Cluster, standin_dataset: Path) -> None:
    home, tokenizer = cluster.place / "box-a", cluster.place / "tokenizer"
    make = [sys.executable, standins_main.__file__, "tokenizer", str(tokenizer)]
    subprocess.run(make, check=True, capture_output=True)
    (home / "datasets").mkdir(parents=True)
    shutil.copytree(standin_dataset, home / "datasets" / "real")
    shutil.copytree(tokenizer, home / "huggingface")
    # The package and the tests, and no fake of anything.
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    box = cluster.box(PYTHONPATH=os.pathsep.join(paths), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="2")
    dataset = {"dataset": {"repo_id": "local/grab_box", "root": "datasets/real"}}
    job = cluster.submit(steps=50_000, flags={**PI0, **dataset}, preflight={"rehearse": "auto"})

    most = 0

    def rehearsed(record: object) -> bool:
        nonlocal most
        for process in box.processes(job):
            if "pi0q_trainer" in " ".join(process.cmdline()):
                most = max(most, _memory(process))
        return bool(getattr(record, "rehearsal", None)) or str(getattr(record, "state", "")) == "failed"

    record = cluster.until(job, rehearsed, seconds=LIMIT_SECONDS + 120)
    cluster.store.cancel(job, text="enough was seen")
    assert record.rehearsal["ok"], f"{record.rehearsal} {record.detail}\n{box.trainer_log(job)[-3000:]}"
    assert "resumed, and went on to the end" in record.rehearsal["detail"]
    assert 0 < most < 4 << 30
    cluster.ends(job)
    assert not (box.run_dir(job) / "rehearsal").exists()
    print(f"the rehearsal took {record.rehearsal['seconds']} s and {most / 2**20:.0f} MiB")


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
