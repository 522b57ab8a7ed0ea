"""The hook on this interpreter's LeRobot, on the CPU. A start costs 15 to 25 s of imports: few starts."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.kinds import Value
from pi0q.ops import standins
from pi0q.workers.after import push
from pi0q.workers.run import launch, saves
from pi0q.workers.run.pi0q_trainer import health
from tests.standin_hub import TOKEN, StandInHub
from tests.workers.run import nursery

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("lerobot") is None, reason="LeRobot is not installed in this interpreter"
    ),
]

PATIENCE = 240.0
ACT = [*nursery.ACT, "--wandb.enable=true", "--wandb.mode=offline"]


def lerobot() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("lerobot").split(".")[:2])


class Run:
    """A trainer process with its events in a file."""

    def __init__(self, place: Path, name: str, flags: list[str], **env: str) -> None:
        self.events_file, self.log = place / f"{name}.events", place / f"{name}.log"
        self.events_file.touch()
        quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        ours = {"PI0Q_EVENTS": str(self.events_file), "HF_HOME": str(place / "hf")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(launch.HOOK), *flags],
                env={**os.environ, **quiet, **ours, **env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def events(self, kind: str) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in self.events_file.read_text().splitlines()]
        return [event for event in told if event["event"] == kind]

    def losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.events("step")}

    def finish(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill()
            print(self.log.read_text()[-3000:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_parameter_that_is_not_finite_is_named_and_finite_ones_are_not() -> None:
    torch: Any = importlib.import_module("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1).to(torch.bfloat16))
    model.register_buffer("limits", torch.tensor([float("inf")]))
    assert health.not_finite(model) is None, "a buffer may hold what it likes"
    for bad in (float("nan"), float("inf"), float("-inf")):
        with torch.no_grad():
            model[1].weight[0, 1] = bad
        assert health.not_finite(model) == "1.weight"
    assert health.not_finite(torch.nn.Identity()) is None


def common(place: Path, steps: int) -> list[str]:
    eval_freq = "env_eval_freq" if lerobot() >= (0, 5) else "eval_freq"
    return [
        "--dataset.repo_id=local/grab_box",
        f"--dataset.root={place / 'dataset'}",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        "--batch_size=2",
        "--num_workers=0",
        "--log_freq=1",
        f"--{eval_freq}=0",
        f"--steps={steps}",
    ]


def resume(output: Path, step: str) -> list[str]:
    config = output / "checkpoints" / step / "pretrained_model/train_config.json"
    return [f"--config_path={config}", "--resume=true", f"--output_dir={output}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("real")
    make = [sys.executable, standins.__file__, "dataset", str(place / "dataset")]
    made = subprocess.run(make, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    return place


def signal_after(run: Run, kind: str, step: int, signum: int) -> None:
    """Sends it as soon as the events file tells of that step."""
    ended = os.pidfd_open(run.process.pid)
    try:
        while not any(event["step"] >= step for event in run.events(kind)):
            if select.select([ended], [], [], 0.02)[0]:
                raise AssertionError(f"exit code {run.finish()} before step {step}")
    finally:
        os.close(ended)
    run.process.send_signal(signum)


def test_act_stopped_and_resumed_goes_on_where_it_was(place: Path) -> None:
    """Loss for loss, whatever loads the data, with a save on demand on the way; longer runs: test_resume_real.py."""
    flags = [*common(place, 20), *ACT, "--save_freq=1000", "--dataset.image_transforms.enable=true"]
    hub = StandInHub().__enter__()
    pushes = ["--policy.push_to_hub=true", "--policy.repo_id=you/it", "--policy.license=mit"]
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    told = [flag for flag in flags if not flag.startswith("--policy.push_to_hub")]
    whole = Run(place, "whole", [*told, *pushes, f"--output_dir={place / 'whole'}"],
                PI0Q_CARD=str(place / "card.md"), **online)  # fmt: skip
    stopped = Run(place, "stopped", [*flags, f"--output_dir={place / 'stopped'}"])
    try:
        signal_after(stopped, "step", 2, signal.SIGUSR1)
        signal_after(stopped, "saved", 2, signal.SIGTERM)
    except AssertionError:
        whole.kill()
        raise
    assert (stopped.finish(), whole.finish()) == (75, 0)
    hub.__exit__(None, None, None)
    check_push(place, hub.files("model", "you/it"))
    asked, saved = stopped.events("saved")
    assert (asked["wanted"], saved["wanted"]) == (True, False) and asked["step"] < saved["step"]
    before = stopped.losses()
    assert list(before) == list(range(1, saved["step"] + 1))
    assert before.items() <= whole.losses().items()
    check_wandb(stopped.events("wandb"))

    checkpoint = Path(saved["path"])
    assert (place / "stopped/checkpoints/last").resolve() == checkpoint
    for each in (asked, saved):
        # 0.4 saves on demand by a save_freq of 1 for a moment: no resume may inherit that.
        config = json.loads((Path(each["path"]) / "pretrained_model/train_config.json").read_text())
        assert config["save_freq"] == 1000
    harm_each_file(place / "stopped/checkpoints", asked["step"], saved["step"])

    # A data worker more than before; 0.6 starts it as a fresh interpreter.
    resumed = Run(place, "resumed", [*resume(place / "stopped", checkpoint.name), "--num_workers=1"])
    assert resumed.finish() == 0
    assert resumed.events("ready")[0]["step"] == saved["step"]
    assert list(resumed.losses()) == list(range(saved["step"] + 1, 21))
    assert before | resumed.losses() == whole.losses()
    assert resumed.events("wandb")[0]["run_id"] == stopped.events("wandb")[0]["run_id"]


def harm_each_file(checkpoints: Path, older: int, newer: int) -> None:
    """LeRobot's own files: torn, zero-tailed, a bit flipped, gone; each is seen, and the older checkpoint used."""
    for step in (older, newer):
        saves.seal(checkpoints / f"{step:06}", step=step, epoch=1)
    assert saves.newest(checkpoints, print) is not None
    place, aside = checkpoints / f"{newer:06}", checkpoints / f"{newer:06}.bad"
    for file in [path for path in sorted(place.rglob("*")) if path.is_file() and not path.name.endswith(".saved")]:
        good = file.read_bytes()
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        harms = [good[:-1], good[: len(good) // 2], b"", flipped, good[: len(good) // 2] + bytes(len(good) // 2), None]
        for harm in harms:
            file.unlink() if harm is None else file.write_bytes(harm)
            (checkpoints / "last").unlink()
            found = saves.newest(checkpoints, print)
            assert found is not None and found.step == older, f"{file.name}: {harm[-20:] if harm else harm!r}"
            assert (checkpoints / "last").readlink().name == f"{older:06}"
            aside.rename(place)
            file.write_bytes(good)
    found = saves.newest(checkpoints, print)
    assert found is not None and found.step == newer


def check_push(place: Path, theirs: dict[str, bytes]) -> None:
    """What the box would push of a checkpoint that pi0q's trainer made is what LeRobot itself has just pushed."""
    folder = place / "whole/checkpoints/last/pretrained_model"
    ours = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in push.SUFFIXES}
    ours["README.md"] = (place / "card.md").read_bytes()
    assert set(ours) == set(theirs) >= {"model.safetensors", "train_config.json", "policy_preprocessor.json"}
    train: dict[str, Value] = {"dataset.root": str(place / "dataset")}
    for name in ("config.json", "train_config.json"):
        # As the trainer of a box has it, which never pushes.
        text = ours.pop(name).decode().replace('"push_to_hub": true', '"push_to_hub": false')
        assert json.loads(push.as_asked(name, text, train)) == json.loads(theirs.pop(name)), name
    cards = [set(files.pop("README.md").decode().splitlines()) for files in (ours, theirs)]
    assert cards[0] == cards[1] >= {"library_name: lerobot", "license: mit"}
    assert ours == theirs


def check_wandb(told: list[dict[str, Any]]) -> None:
    (run,) = told
    assert (run["offline"], run["url"]) == (True, None)
    assert (Path(run["dir"]) / f"run-{run['run_id']}.wandb").stat().st_size > 0


@pytest.mark.skipif(
    importlib.util.find_spec("lerobot") is None or lerobot() < (0, 5),
    reason="pi0 of this LeRobot needs a patched transformers",
)
def test_rehearsed_pi0_resumes_loss_for_loss(place: Path) -> None:
    standins.make_tokenizer(place / "hf")
    flags = [*common(place, 6), *nursery.PI0, "--save_freq=3", f"--output_dir={place / 'pi0'}"]
    whole = Run(place, "pi0", flags, PI0Q_REHEARSAL="1")
    assert whole.finish() == 0
    assert 10e6 < whole.events("ready")[0]["params"] < 20e6
    assert [event["step"] for event in whole.events("saved")] == [3, 6]

    shutil.rmtree(place / "pi0/checkpoints/000006")
    resumed = Run(place, "pi0-resumed", resume(place / "pi0", "000003"), PI0Q_REHEARSAL="1")
    assert resumed.finish() == 0
    assert list(resumed.losses()) == [4, 5, 6]
    assert resumed.losses().items() <= whole.losses().items()
