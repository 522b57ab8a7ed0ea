"""What this interpreter's torch makes of a file of weights that lies in the cache, in a trainer's environment."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pi0q.queue.settings import Settings
from pi0q.workers.host.cache_paths import torch_home
from pi0q.workers.trainer import launch
from tests import real_lerobot

pytestmark = [pytest.mark.real, real_lerobot.NEEDED]

NAME = "resnet18-f37072fd.pth"
SAVE = "import sys, torch, torchvision; torch.save(torchvision.models.resnet18().state_dict(), sys.argv[1])"
#: As LeRobot's act, diffusion and vqbet do it.
LOAD = "import torchvision; torchvision.models.resnet18(weights='ResNet18_Weights.IMAGENET1K_V1'); print('loaded')"


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


def load(settings: Settings, **env: str) -> subprocess.CompletedProcess[str]:
    """Load the weights in the environment that `launch` gives a trainer; no network is needed."""
    nowhere = {"PATH": "/usr/bin:/bin", "https_proxy": "http://127.0.0.1:9"}
    trainer = launch.build(nowhere | env, settings, gpus=[], command={}, marks={})
    return subprocess.run([sys.executable, "-c", LOAD], env=trainer, capture_output=True, text=True, timeout=240)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, hf_home=tmp_path / "hf")


@pytest.fixture
def file(settings: Settings) -> Path:
    file = torch_home(settings) / "hub" / "checkpoints" / NAME
    file.parent.mkdir(parents=True)
    return file


def test_trainer_loads_the_weights_from_the_data_disk_with_the_network_cut(settings: Settings, file: Path) -> None:
    subprocess.run([sys.executable, "-c", SAVE, str(file)], check=True, timeout=240)

    done = load(settings)

    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize("env", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
def test_torch_runs_no_code_out_of_a_file_of_weights(settings: Settings, file: Path, env: dict[str, str]) -> None:
    harm = settings.home / "harm"
    file.write_bytes(pickle.dumps({"conv1.weight": Bomb(harm)}))

    done = load(settings, **env)

    assert done.returncode != 0 and "Weights only load failed" in done.stderr
    assert not harm.exists()
