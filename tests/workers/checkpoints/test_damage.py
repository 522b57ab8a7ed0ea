"""FAULTS.md rows 19 and 20, exhaustively: a save is killed at each touch of the disk, and each file harmed in each way.

The checkpoints are the fake LeRobot's, made under the real hook; test_trainer_real.py harms real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.checkpoint import MANIFEST, REQUIRED
from pi0q.workers.checkpoints import local_store
from pi0q.workers.trainer import launch
from tests.workers.checkpoints.conftest import Logged

FAKE = Path(__file__).parents[2] / "fake_lerobot"

#: Forks one trainer for each touch of the disk in the second save, SIGKILLed right before it; the last one lives.
KILLER = """
import os, signal, sys
from pathlib import Path
place, hooks = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, hooks)
from pi0q_trainer.events import Events
from pi0q_trainer.hook import Hook
from lerobot.scripts import lerobot_train
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def touches(event, args):
    if event == "open":
        return bool(args[2] & WRITES) and str(args[0])
    if event in ("os.mkdir", "os.remove", "os.utime"):
        return str(args[0])
    return event in ("os.rename", "os.symlink", "os.link") and str(args[1])

def child(at, output):
    count = [0]
    def audit(event, args):
        where = touches(event, args)
        if where and (output / "checkpoints" / "000002").exists() and (
            "/000004" in where or where.endswith("/last")) and hook.step == 4:
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
    hook = Hook(Events(None))
    assert hook.install(lerobot_train)
    sys.addaudithook(audit)
    sys.argv = ["lerobot-train", "--dataset.repo_id=local/x", "--policy.type=pi0", "--policy.push_to_hub=false",
                "--steps=4", "--save_freq=2", f"--output_dir={output}"]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    lerobot_train.main()
    os._exit(0)

for at in range(1, 200):
    pid = os.fork()
    if pid == 0:
        try:
            child(at, place / f"{at:03}")
        finally:
            os._exit(9)
    status = os.waitpid(pid, 0)[1]
    print(at, status, flush=True)
    if status != signal.SIGKILL:
        break
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Output directories of trainers, each killed one touch of the disk later in its second save; the last was not."""
    place = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(place), str(launch.HOOK.parent)],
        env={**os.environ, "PYTHONPATH": str(FAKE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1].split()[1] == "0", done.stdout + done.stderr
    return sorted(place.iterdir())


def contents(checkpoint: Path) -> dict[str, bytes]:
    """Every file of a checkpoint but ours."""
    files = (path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(MANIFEST))
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in files}


def test_a_save_killed_at_each_touch_of_the_disk_leaves_the_newest_good_one(killed: list[Path], logged: Logged) -> None:
    assert len(killed) > 15, "it must have been killed at each of them"
    whole = contents(killed[-1] / "checkpoints/000004")
    found, unused = [], 0
    for output in killed:
        checkpoints = output / "checkpoints"
        local_store.seal(checkpoints / "000002", step=2, epoch=1)
        before = contents(checkpoints / "000004") if (checkpoints / "000004").exists() else {}
        saved = local_store.newest(checkpoints, late=2)
        assert saved is not None, logged.take()
        found.append(saved.step)
        chosen = checkpoints / f"{saved.step:06}"
        assert (checkpoints / "last").resolve() == chosen.resolve()
        assert json.loads((chosen / "training_state/training_step.json").read_text())["step"] == saved.step
        complete = before.keys() == whole.keys() and all(before[name] for name in whole)
        unused += saved.step == 2 and complete
        if saved.step == 4:
            assert contents(chosen).keys() == whole.keys()
        assert [path.name for path in checkpoints.iterdir() if path.name.isdigit()] != []
        unsealed = [path for path in checkpoints.iterdir() if path.name.isdigit() and not (path / MANIFEST).exists()]
        assert unsealed == []
    # Once it is whole it counts, also between the unlink and the symlink of `last`.
    assert unused <= 1, "only between the last byte and the word that it was the last"
    first = found.index(4)
    assert found == [2] * first + [4] * (len(found) - first) and len(found) - first >= 3


def test_a_training_goes_on_from_what_each_kill_left(killed: list[Path]) -> None:
    """LeRobot meets nothing in its way: neither a directory of that step nor a link to nowhere."""
    for output in (killed[0], killed[len(killed) // 2], killed[-2]):
        saved = local_store.newest(output / "checkpoints", late=2)
        assert saved is not None
        config = Path(saved.path) / "pretrained_model/train_config.json"
        argv = [sys.executable, str(launch.HOOK), f"--config_path={config}", "--resume=true", f"--output_dir={output}"]
        done = subprocess.run([*argv, "--steps=6"], env={**os.environ, "PYTHONPATH": str(FAKE)}, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert (output / "checkpoints/last").resolve().name == "000006"


# -- our own seal, killed at each touch -----------------------------------------------------------------

SEALER = """
import os, signal, sys
from pathlib import Path
from pi0q.workers.checkpoints import local_store
source, place = Path(sys.argv[1]), Path(sys.argv[2])
import shutil

def child(at, checkpoints):
    count = [0]
    def audit(event, args):
        ours = event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        ours = (ours or event == "os.rename") and str(checkpoints) in str(args[0])
        if ours or event in ("os.remove", "os.rmdir"):  # their names may be relative to an open directory
            count[0] += 1
            if count[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(audit)
    local_store.seal(checkpoints / "000004", step=4, epoch=2)
    local_store.prune(checkpoints, 1)

for at in range(1, 200):
    checkpoints = place / f"{at:03}" / "checkpoints"
    shutil.copytree(source, checkpoints, symlinks=True)
    pid = os.fork()
    if pid == 0:
        child(at, checkpoints)
        os._exit(0)
    if os.waitpid(pid, 0)[1] != signal.SIGKILL:
        break
"""


@pytest.mark.parametrize("late", [2, None])
def test_a_seal_and_the_removal_of_the_one_before_killed_at_each_touch(
    killed: list[Path], tmp_path: Path, late: int | None
) -> None:
    source = tmp_path / "source"
    shutil.copytree(killed[-1] / "checkpoints", source, symlinks=True)
    (source / "000004" / MANIFEST).unlink(missing_ok=True)
    if not (source / "000002" / MANIFEST).exists():
        local_store.seal(source / "000002", step=2, epoch=1)
    command = [sys.executable, "-c", SEALER, str(source), str(tmp_path / "runs")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) > 10
    found = []
    for run in runs:
        saved = local_store.newest(run / "checkpoints", late=late)
        assert saved is not None, "one of the two is always good"
        found.append(saved.step)
        half_removed = run / "checkpoints/000002"
        if half_removed.exists() and not (half_removed / MANIFEST).exists():
            shutil.rmtree(run / "checkpoints/000004")
            assert local_store.newest(run / "checkpoints", late=late) is None, "what is being removed is never good"
    # Before the manifest has its name, only one whose host lives on is trusted.
    assert found == [4] * len(runs) if late else sorted(found) == found and {*found} == {2, 4}


# -- harm -----------------------------------------------------------------------------------------------


def cut(share: float, less: int = 0) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, max(0, int(path.stat().st_size * share) - less))


def zeros(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size - max(1, size // 4))
    os.truncate(path, size)


def flip(at: float) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(len(data) - 1, int(len(data) * at))] ^= 1
        path.write_bytes(data)

    return harm


HARMS: dict[str, Callable[[Path], None]] = {
    "torn": cut(0.9),
    "a byte less": cut(1.0, 1),
    "half": cut(0.5),
    "empty": cut(0.0),
    "a tail of zeros": zeros,
    "its first bit": flip(0.0),
    "a bit in its midst": flip(0.5),
    "its last byte": flip(1.0),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def good(killed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sealed checkpoints of a run that nobody killed."""
    place = tmp_path_factory.mktemp("good") / "checkpoints"
    shutil.copytree(killed[-1] / "checkpoints", place, symlinks=True)
    for step in (2, 4):
        # The fake's weights end in zeros, which a tail of zeros would not harm.
        flip(1.0)(place / f"{step:06}" / "pretrained_model/model.safetensors")
        flip(1.0)(place / f"{step:06}" / "training_state/optimizer_state.safetensors")
        local_store.seal(place / f"{step:06}", step=step, epoch=1)
    return place


def copies(good: Path, place: Path) -> Iterator[tuple[str, Path]]:
    """Each file of the newer one, in a copy of both."""
    names = sorted(str(path.relative_to(good / "000004")) for path in (good / "000004").rglob("*") if path.is_file())
    for number, name in enumerate(name for name in names if not name.endswith(".saved")):
        shutil.copytree(good, place / str(number), symlinks=True)
        yield name, place / str(number)


@pytest.mark.parametrize("link", ["right", "missing", "to nowhere"])
@pytest.mark.parametrize("harm", HARMS)
def test_each_harm_to_each_file_is_seen_and_the_one_before_it_used(
    good: Path, tmp_path: Path, logged: Logged, harm: str, link: str
) -> None:
    seen = set()
    for name, checkpoints in copies(good, tmp_path):
        HARMS[harm](checkpoints / "000004" / name)
        if link != "right":
            (checkpoints / "last").unlink()
        if link == "to nowhere":
            (checkpoints / "last").symlink_to("000009")
        saved = local_store.newest(checkpoints)
        assert saved is not None and saved.step == 2, name
        assert sorted(path.name for path in checkpoints.iterdir()) == ["000002", "000004.bad", "last"]
        assert (checkpoints / "last").readlink() == Path("000002")
        (said,) = logged.take()
        assert "moved aside" in said
        seen.add(name)
    assert {*REQUIRED, MANIFEST} <= seen


def test_each_bit_of_a_manifest(good: Path, tmp_path: Path) -> None:
    """One that still vouches for all that it names, and for this step, may say another epoch; nothing else."""
    shutil.copytree(good, tmp_path / "c", symlinks=True)
    path = tmp_path / "c/000004" / MANIFEST
    text, survived = path.read_bytes(), []
    for at in range(0, 8 * len(text), 67):
        harmed = bytearray(text)
        harmed[at // 8] ^= 1 << at % 8
        path.write_bytes(harmed)
        saved = local_store.newest(tmp_path / "c")
        assert saved is not None
        if saved.step == 4:
            survived.append(json.loads(harmed))
        else:
            (tmp_path / "c/000004.bad").rename(tmp_path / "c/000004")
    known: dict[str, Any] = json.loads(text)
    for other in survived:
        assert {**other, "epoch": 0} == {**known, "epoch": 0}


def test_both_harmed_leaves_nothing_and_nothing_is_thrown_away(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "c", symlinks=True)
    for step in ("000002", "000004"):
        flip(0.5)(tmp_path / "c" / step / "pretrained_model/model.safetensors")
    assert local_store.newest(tmp_path / "c") is None
    assert {"000002.bad", "000004.bad"} <= {path.name for path in (tmp_path / "c").iterdir()}
