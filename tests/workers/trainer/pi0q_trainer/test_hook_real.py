"""The hook on this interpreter's LeRobot, on the CPU. A start costs 15 to 25 s of imports: few starts, else forks."""

from __future__ import annotations

import importlib
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

from pi0q.jobs.schema.value_types import Value
from pi0q.ops.local import standins_main
from pi0q.workers.checkpoints import local_store
from pi0q.workers.postrun import push
from pi0q.workers.trainer import launch
from pi0q.workers.trainer.pi0q_trainer import checks
from tests import real_lerobot
from tests.standin_hub import TOKEN, StandInHub
from tests.workers.trainer import fork_server
from tests.workers.trainer.fork_server import ForkServer, Life

pytestmark = [
    pytest.mark.real,
    real_lerobot.NEEDED,
]

PATIENCE = 240.0
ACT = [*fork_server.ACT, "--wandb.enable=true", "--wandb.mode=offline"]


def events(file: Path, kind: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in file.read_text().splitlines()]
    return [event for event in told if event["event"] == kind]


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
        return events(self.events_file, kind)

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
    assert checks.not_finite(model) is None, "a buffer may hold what it likes"
    for bad in (float("nan"), float("inf"), float("-inf")):
        with torch.no_grad():
            model[1].weight[0, 1] = bad
        assert checks.not_finite(model) == "1.weight"
    assert checks.not_finite(torch.nn.Identity()) is None


def common(place: Path, steps: int) -> list[str]:
    return [
        "--dataset.repo_id=local/grab_box",
        f"--dataset.root={place / 'dataset'}",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        "--batch_size=2",
        "--num_workers=0",
        "--log_freq=1",
        f"--{real_lerobot.NO_EVALUATION}=0",
        f"--steps={steps}",
    ]


def resume(output: Path, step: str) -> list[str]:
    config = output / "checkpoints" / step / "pretrained_model/train_config.json"
    return [f"--config_path={config}", "--resume=true", f"--output_dir={output}"]


def signal_after(home: ForkServer, pid: int, name: str, *, kind: str, step: int, signum: int) -> None:
    """Sends it as soon as the events file tells of that step."""
    ended = os.pidfd_open(pid)
    try:
        while not any(event["step"] >= step for event in events(home.events(name), kind)):
            if select.select([ended], [], [], 0.02)[0]:
                raise AssertionError(f"exit code {home.wait()} before step {step}")
        signal.pidfd_send_signal(ended, signum)
    finally:
        os.close(ended)


def test_act_stopped_and_resumed_goes_on_where_it_was(home: ForkServer) -> None:
    """Loss for loss, whatever loads the data, with a save on demand on the way; longer runs: test_resume_real.py."""
    place = home.place
    flags = [*common(place, 20), *ACT, "--save_freq=1000", "--dataset.image_transforms.enable=true"]
    hub = StandInHub().__enter__()
    pushes = ["--policy.push_to_hub=true", "--policy.repo_id=you/it", "--policy.license=mit"]
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    told = [flag for flag in flags if not flag.startswith("--policy.push_to_hub")]
    whole = Run(place, "whole", [*told, *pushes, f"--output_dir={place / 'whole'}"],
                PI0Q_CARD=str(place / "card.md"), **online)  # fmt: skip
    pid = home.start("stopped", [*flags, f"--output_dir={place / 'stopped'}"])
    try:
        signal_after(home, pid, "stopped", kind="step", step=2, signum=signal.SIGUSR1)
        signal_after(home, pid, "stopped", kind="saved", step=2, signum=signal.SIGTERM)
    except AssertionError:
        whole.kill()
        raise
    stopped = Life(home.events("stopped"), home.wait(), place / "stopped.log")
    assert (stopped.code, whole.finish()) == (75, 0)
    hub.__exit__(None, None, None)
    check_push(place, hub.files("model", "you/it"))
    asked, saved = stopped.of("saved")
    assert (asked["wanted"], saved["wanted"]) == (True, False) and asked["step"] < saved["step"]
    before = stopped.losses()
    assert list(before) == list(range(1, saved["step"] + 1))
    assert before.items() <= whole.losses().items()
    check_wandb(stopped.of("wandb"))

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
    assert resumed.events("wandb")[0]["run_id"] == stopped.of("wandb")[0]["run_id"]


def harm_each_file(checkpoints: Path, older: int, newer: int) -> None:
    """LeRobot's own files: torn, zero-tailed, a bit flipped, gone; each is seen, and the older checkpoint used.

    Each look hashes some hundred MB, so each file suffers two of the six harms in turn; all of them on each file:
    tests/workers/checkpoints/test_damage.py.
    """
    for step in (older, newer):
        local_store.seal(checkpoints / f"{step:06}", step=step, epoch=1)
    assert local_store.newest(checkpoints) is not None
    place, aside = checkpoints / f"{newer:06}", checkpoints / f"{newer:06}.bad"
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and not path.name.endswith(".saved")]
    for number, file in enumerate(files):
        good = file.read_bytes()
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        harms = [good[:-1], good[: len(good) // 2], b"", flipped, good[: len(good) // 2] + bytes(len(good) // 2), None]
        for harm in (harms[number % 6], harms[(number + 3) % 6]):
            file.unlink() if harm is None else file.write_bytes(harm)
            (checkpoints / "last").unlink()
            found = local_store.newest(checkpoints)
            assert found is not None and found.step == older, f"{file.name}: {harm[-20:] if harm else harm!r}"
            assert (checkpoints / "last").readlink().name == f"{older:06}"
            aside.rename(place)
            file.write_bytes(good)
    found = local_store.newest(checkpoints)
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


@real_lerobot.PI0_NEEDED
def test_rehearsed_pi0_resumes_loss_for_loss(home: ForkServer) -> None:
    place = home.place
    standins_main.make_tokenizer(place / "hf")
    flags = [*common(place, 6), *fork_server.PI0, "--save_freq=3", f"--output_dir={place / 'pi0'}"]
    whole = home.live("pi0-rehearsed", flags, PI0Q_REHEARSAL="1")
    assert whole.code == 0, whole.log.read_text()[-3000:]
    assert 10e6 < whole.of("ready")[0]["params"] < 20e6
    assert whole.saved() == [3, 6]

    shutil.rmtree(place / "pi0/checkpoints/000006")
    resumed = home.live("pi0-resumed", resume(place / "pi0", "000003"), PI0Q_REHEARSAL="1")
    assert resumed.code == 0, resumed.log.read_text()[-3000:]
    assert list(resumed.losses()) == [4, 5, 6]
    assert resumed.losses().items() <= whole.losses().items()
