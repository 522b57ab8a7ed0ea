"""An output directory that was begun by hand becomes a job that goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.state import State
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.adoption.adopt import Adoption, adopt
from pi0q.workers.checkpoints import local_store
from pi0q.workers.trainer import interpreter
from pi0q.workers.trainer.interpreter import NoTrainer, TrainerPython
from tests.conftest import Command
from tests.workers.adoption.begun import CONFIG, checkpoint

LEROBOT = TrainerPython(python="/bin/false", lerobot="0.6.1")


@pytest.fixture(autouse=True)
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "find", lambda _: LEROBOT)


def take(output: Path, chosen: Settings, store: Store) -> Adoption:
    return adopt(output, chosen, store, box="box-a", say=lambda _: None)


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_newest_checkpoint_is_sealed_and_its_job_waits_for_this_box(
    tmp_path: Path, chosen: Settings, store: Store
) -> None:
    output = tmp_path / "x"
    checkpoint(output, 10)
    source = checkpoint(output, 20, size=2_000_000)
    before = content(output)
    made = take(output, chosen, store)
    job = store.get(made.job_id)
    assert (job.state, job.box, job.step, job.steps, job.lerobot) == (State.QUEUED, "box-a", 20, 100, "0.6.1")
    assert job.checkpoint == made.saved and job.spec["train"]["policy.dim_model"] == 512
    sealed = chosen.runs / made.job_id / "output/checkpoints/000020"
    assert local_store.newest(sealed.parent) == made.saved
    assert content(output) == before and not (source / "pi0q.manifest.json").exists()
    assert "took" in job.history[-1].text and "over at step 20" in job.history[-1].text


def test_large_files_share_their_bytes_and_small_ones_are_copies(
    tmp_path: Path, chosen: Settings, store: Store
) -> None:
    source = checkpoint(tmp_path / "x", 20, size=2_000_000)
    made = take(tmp_path / "x", chosen, store)
    target = Path(made.saved.path)
    for name, shared in [("pretrained_model/model.safetensors", True), ("pretrained_model/config.json", False)]:
        assert (source / name).samefile(target / name) is shared


def test_the_wandb_run_goes_on(tmp_path: Path, chosen: Settings, store: Store) -> None:
    wandb = {**CONFIG["wandb"], "enable": True, "project": "p", "entity": "e", "run_id": "abc123"}
    checkpoint(tmp_path / "x", 20, wandb=wandb)
    job = store.get(take(tmp_path / "x", chosen, store).job_id)
    assert (job.wandb_run_id, job.wandb_url) == ("abc123", "https://wandb.ai/e/p/runs/abc123")


def _evil(output: Path) -> None:
    place = checkpoint(output, 20)
    step = {"class": "os.system", "config": {"command": "true"}}
    (place / "pretrained_model/policy_preprocessor.json").write_text(json.dumps({"name": "x", "steps": [step]}))


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        (lambda output: None, "There is no directory"),
        (lambda output: output.mkdir(), "there is no checkpoint in"),
        (lambda output: checkpoint(output, 100), "has done all of its 100 steps"),
        (lambda output: checkpoint(output, 20, nonsense=1), "1 error in"),
        (_evil, "policy_preprocessor.json"),
    ],
)
def test_what_can_not_be_taken_over_leaves_nothing_behind(
    tmp_path: Path, chosen: Settings, store: Store, begun: Any, told: str
) -> None:
    begun(tmp_path / "x")
    with pytest.raises(UsageError) as refused:
        take(tmp_path / "x", chosen, store)
    assert told in str(refused.value) and "Nothing was queued" in str(refused.value)
    assert store.page().jobs == () and list(chosen.runs.glob("*")) == []


def test_what_several_processes_trained_goes_on_with_a_gpu_for_each(
    tmp_path: Path, chosen: Settings, store: Store
) -> None:
    checkpoint(tmp_path / "x", 20, processes=4)
    adopted = take(tmp_path / "x", chosen, store)
    assert store.get(adopted.job_id).needs["gpus"] == 4


def test_a_box_without_lerobot_says_so(
    tmp_path: Path, chosen: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path / "x", 20)
    monkeypatch.setattr(interpreter, "find", lambda _: NoTrainer(why="no LeRobot found"))
    with pytest.raises(UsageError, match="This box has no trainer: no LeRobot found"):
        take(tmp_path / "x", chosen, store)


def test_the_command_says_what_became_of_it(call: Command, tmp_path: Path, store: Store) -> None:
    checkpoint(tmp_path / "x", 20)
    said = call("import", "--adopt", str(tmp_path / "x"), PI0Q_BOX="gpu-7")
    assert said.returncode == 0, said.stderr
    (job,) = store.page().jobs
    assert said.stdout.startswith(f"x goes on as {job.id}, from step 20 of 100, on gpu-7.  See it with: pi0q watch")
    assert "No worker runs on gpu-7: the job waits for it. Fix: pi0q worker" in said.stdout
    assert "left out output_dir" in said.stderr
    refused = call("import", "--adopt", str(tmp_path / "x"), "-o", "y.yaml")
    assert refused.returncode == 2 and "nothing beside it" in refused.stderr
    missing = call("import", "--adopt", str(tmp_path / "nope"))
    assert missing.returncode == 2 and "There is no directory" in missing.stderr
