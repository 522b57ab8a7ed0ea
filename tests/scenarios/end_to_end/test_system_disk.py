"""Not one job may fill the system disk: a box whose system disk has 50 MB to spare, and a data disk, runs whole jobs.

The box is AutoDL's as far as disks go: all of this machine is its system disk, /root/autodl-tmp its data disk. No
setting says where anything lies.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.record import Record
from pi0q.jobs.state import ENDED
from pi0q.workers.hub.requirements import PALIGEMMA
from tests import real_lerobot
from tests.rig import disks
from tests.rig.disks import MIB, TwoDisks
from tests.standin_hub import TOKEN, StandInHub

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Cluster

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.skipif(bool(disks.refusal()), reason=disks.refusal() or "it has such a box")

SPARE_MIB = 50
TESTS = Path(__file__).parents[2]
#: In the format of safetensors, most of it in no tensor.
HEADER = b'{"model.weight": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + os.urandom(MIB) * 120
ACT = {
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
def box(tmp_path: Path) -> Iterator[TwoDisks]:
    made = TwoDisks(tmp_path / "machine", spare_mib=SPARE_MIB)
    yield made
    made.close()


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.7", "127.0.0.8")) as hub:
        info = {"meta/info.json": b'{"codebase_version": "v3.0"}', "data/file.parquet": b"p" * 9000}
        hub.commit("dataset", "local/grab_box", info, refs=("main", "v3.0"))
        hub.commit("model", "lerobot/pi0", {"config.json": b"{}", "model.safetensors": WEIGHTS})
        hub.commit("model", PALIGEMMA, {"config.json": b"{}", "tokenizer.json": b"{}"}, gated=True)
        yield hub


def work(cluster: Cluster, box: TwoDisks, *, fake: bool, **env: str) -> None:
    """Starts the real worker there."""
    kept = cluster.env(disks.DATA / "pi0q")
    del kept["PI0Q_HOME"]
    paths = [str(TESTS / "fake_lerobot") if fake else "", os.environ.get("PYTHONPATH", "")]
    # Also bytecode is written, as on a box.
    foreign = ("HF_", "XDG_", "WANDB", "TMP", "PYTHONDONTWRITE")
    clean = {name: value for name, value in kept.items() if not name.startswith(foreign)}
    given = {"HOME": "/root", "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env}
    argv = [sys.executable, "-m", "pi0q.queue.cli", "worker", "--name", "box-a"]
    box.start(argv, clean | given, log=cluster.place / "worker.out")


def ends(cluster: Cluster, box: TwoDisks, job: str, seconds: float = 300.0) -> Record:
    """Looks at the disk whenever something is told of the job."""
    try:
        return cluster.until(job, lambda record: (box.look(), record.state in ENDED)[1], seconds=seconds)
    except AssertionError as error:
        told = (cluster.place / "worker.out").read_text()[-4000:]
        raise AssertionError(
            f"{error}\n{[known.get('refusals') for known in cluster.store.boxes(about=job)]}\n{told}"
        ) from None


def on_data(box: TwoDisks) -> int:
    """Bytes on the data disk."""
    return sum(path.lstat().st_size for path in box.data.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_job_with_base_dataset_and_tokenizer_leaves_the_system_disk_alone(
    cluster: Cluster, box: TwoDisks, hub: StandInHub
) -> None:
    work(cluster, box, fake=True, PI0Q_HF_ENDPOINT=hub.url, PI0Q_HF_MIRROR="off", HF_TOKEN=TOKEN)
    flags = {"policy": {"type": "pi0", "device": "cpu", "push_to_hub": False, "pretrained_path": "lerobot/pi0"}}
    job = cluster.submit("grab_box", from_hub=True, flags=flags, steps=20, save_freq=5)
    record = ends(cluster, box, job)
    assert str(record.state) == "succeeded", record
    assert record.run_dir == f"{disks.DATA}/pi0q/runs/{job}"
    assert on_data(box) > 2 * SPARE_MIB * MIB, "what came from the Hub lies there"
    assert box.most < SPARE_MIB * MIB // 2, box.written()


def test_the_measure_would_tell(cluster: Cluster, box: TwoDisks, hub: StandInHub) -> None:
    """The same with the Hub's cache where it is by default: the job comes to grief."""
    env = {"PI0Q_HF_ENDPOINT": hub.url, "PI0Q_HF_MIRROR": "off", "HF_TOKEN": TOKEN}
    work(cluster, box, fake=True, PI0Q_HF_HOME="/root/.cache/huggingface", **env)
    flags = {"policy": {"type": "pi0", "device": "cpu", "push_to_hub": False, "pretrained_path": "lerobot/pi0"}}
    job = cluster.submit("grab_box", from_hub=True, flags=flags, steps=20, save_freq=5)
    record = cluster.until(job, lambda record: (box.look(), str(record.reason) == "disk_full")[1])
    assert str(record.state) in ("queued", "failed")
    assert box.most > SPARE_MIB * MIB // 2


def test_a_data_disk_that_holds_one_base_at_a_time(cluster: Cluster, tmp_path: Path, hub: StandInHub) -> None:
    """130 MB of base each: the other goes for it, and the history says so."""
    hub.commit("model", "lerobot/other", {"config.json": b"{}", "model.safetensors": WEIGHTS + b"other"})
    box = TwoDisks(tmp_path / "small", spare_mib=SPARE_MIB, data_mib=250)
    try:
        work(cluster, box, fake=True, PI0Q_HF_ENDPOINT=hub.url, PI0Q_HF_MIRROR="off", HF_TOKEN=TOKEN)
        policy = {"type": "pi0", "device": "cpu", "push_to_hub": False}
        for base, gone in (("lerobot/pi0", ""), ("lerobot/other", "lerobot/pi0"), ("lerobot/pi0", "lerobot/other")):
            flags = {"policy": {**policy, "pretrained_path": base}}
            record = ends(cluster, box, cluster.submit(from_hub=True, flags=flags, disk="150MiB"))
            assert str(record.state) == "succeeded", record
            made = [event.text for event in record.history if event.text.startswith("made room")]
            assert [gone in text for text in made] == [True] * bool(gone), record.history
            models = box.inside(disks.DATA) / "pi0q" / "huggingface" / "hub"
            names = {path.name for path in models.glob("models--lerobot--*")}
            assert names == {f"models--{base.replace('/', '--')}"}
    finally:
        box.close()


@pytest.mark.real
@real_lerobot.NEEDED
def test_a_real_training_leaves_the_system_disk_alone(cluster: Cluster, box: TwoDisks, standin_dataset: Path) -> None:
    dataset = box.data / "pi0q" / "datasets" / "grab_box"
    dataset.parent.mkdir(parents=True)
    shutil.copytree(standin_dataset, dataset)
    work(cluster, box, fake=False, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    policy: dict[str, Any] = {"type": "act", "device": "cpu", "push_to_hub": False, **ACT}
    flags = {"policy": policy, "num_workers": 0, "log_freq": 1}
    job = cluster.submit("grab_box", flags=flags, steps=6, save_freq=2, disk="200MiB")
    record = ends(cluster, box, job, seconds=300.0)
    assert (str(record.state), record.step) == ("succeeded", 6), record
    box.look()
    print(f"system disk: {box.most / 1e6:.2f} MB; data disk: {on_data(box) / 1e6:.2f} MB", box.written())
    assert on_data(box) > 5e6, "checkpoints lie there"
    assert box.most < SPARE_MIB * MIB // 2, box.written()
