"""The rehearsal of a real pi0 with this interpreter's LeRobot on the CPU: minutes, and less than 4 GiB."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pi0q.ops import standins
from pi0q.workers.run.rehearsal import LIMIT_SECONDS

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("lerobot") is None, reason="LeRobot is not installed here"),
]
PI0 = {"policy": {"type": "pi0", "dtype": "bfloat16", "device": "cpu", "push_to_hub": False}, "num_workers": 0}


def test_a_real_pi0_is_rehearsed_on_the_cpu(house: House) -> None:
    if importlib.util.find_spec("lerobot.policies") is None:
        pytest.skip("this LeRobot has no pi0 of its own")
    home, tokenizer = house.place / "box-a", house.place / "tokenizer"
    make = [sys.executable, standins.__file__]
    subprocess.run([*make, "dataset", str(house.place / "dataset")], check=True, capture_output=True)
    subprocess.run([*make, "tokenizer", str(tokenizer)], check=True, capture_output=True)
    (home / "datasets").mkdir(parents=True)
    shutil.copytree(house.place / "dataset", home / "datasets" / "real")
    shutil.copytree(tokenizer, home / "huggingface")
    # The package and the tests, and no fake of anything.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    box = house.box(PYTHONPATH=os.pathsep.join(paths), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="2")
    dataset = {"dataset": {"repo_id": "local/grab_box", "root": "datasets/real"}}
    job = house.submit(steps=50_000, flags={**PI0, **dataset}, preflight={"rehearse": "auto"})

    most = 0

    def rehearsed(record: object) -> bool:
        nonlocal most
        for process in box.processes(job):
            if "pi0q_trainer" in " ".join(process.cmdline()):
                most = max(most, _memory(process))
        return bool(getattr(record, "rehearsal", None)) or str(getattr(record, "state", "")) == "failed"

    record = house.until(job, rehearsed, seconds=LIMIT_SECONDS + 120)
    house.store.cancel(job, text="enough was seen")
    assert record.rehearsal["ok"], f"{record.rehearsal} {record.detail}\n{box.trainer_log(job)[-3000:]}"
    assert "resumed, and went on to the end" in record.rehearsal["detail"]
    assert 0 < most < 4 << 30
    house.ends(job)
    assert not (box.run_dir(job) / "rehearsal").exists()
    print(f"the rehearsal took {record.rehearsal['seconds']} s and {most / 2**20:.0f} MiB")


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
