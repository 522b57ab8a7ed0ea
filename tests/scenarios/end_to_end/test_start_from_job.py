"""A job that starts from another one's checkpoint: on its box, on one that sees only the copies, and on none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pi0q.jobs.record import Record
from pi0q.jobs.state import State
from tests.workers.checkpoints.saved import content

if TYPE_CHECKING:
    from tests.scenarios.end_to_end.conftest import Box, Cluster


def submit_from(cluster: Cluster, start: str, **checkpoints: Any) -> str:
    """Queue a job from a file as a user does; return its id."""
    train = {
        "dataset": {"repo_id": "local/grab_box", "root": "datasets/grab_box"},
        "policy": {"type": "act", "device": "cpu", "push_to_hub": False, "pretrained_path": start},
        "steps": 20,
        "save_freq": 10,
        "batch_size": 2,
    }
    resources, preflight = {"gpus": 0, "disk": "10MiB"}, {"rehearse": "never"}
    file = cluster.place / "second.yaml"
    job = {"name": "second", "resources": resources, "train": train, "preflight": preflight, "checkpoints": checkpoints}
    file.write_text(yaml.safe_dump(job))
    said = cluster.pi0q("submit", str(file), "--json")
    assert said.returncode == 0, said.stderr
    return str(json.loads(said.stdout)["id"])


def done(cluster: Cluster, job: str) -> Record:
    record = cluster.ends(job)
    assert record.state is State.SUCCEEDED, f"{record}\n{cluster.boxes[0].log[-3000:]}"
    return record


def start_of(box: Box, job: str) -> Path:
    """The directory that the job's trainer was told to start from."""
    (life,) = box.trainers_came_one_by_one(job)
    (flag,) = [word for word in life["argv"] if word.startswith("--policy.pretrained_path=")]
    return Path(flag.partition("=")[2])


def test_the_box_that_has_the_checkpoint_starts_from_it(cluster: Cluster) -> None:
    box = cluster.box()
    first = done(cluster, cluster.submit("first", steps=30))
    assert first.checkpoint and list(first.verified) == ["20", "30"]
    model = content(box.checkpoint(first.id, 20) / "pretrained_model")
    second = done(cluster, submit_from(cluster, "job:first@20"))
    started = start_of(box, second.id)
    assert started == box.run_dir(second.id) / "start" / "000020" / "pretrained_model"
    assert content(started) == model
    assert f"starts from the checkpoint in {box.checkpoint(first.id, 20)}" in box.trainer_log(second.id)
    assert cluster.store.get(first.id).starters == {}


def test_a_checkpoint_is_kept_while_a_waiting_job_starts_from_it(cluster: Cluster) -> None:
    box = cluster.box()
    cluster.slow_down(12)
    first = cluster.submit("first", steps=60, checkpoints={"keep": 1})
    cluster.until(first, lambda record: record.checkpoint and record.checkpoint.step == 10)
    second = submit_from(cluster, "job:first")
    cluster.store.hold(second, text="by a test")
    cluster.speed_up()
    done(cluster, first)
    steps = sorted(path.name for path in box.checkpoint(first, 10).parent.iterdir() if path.name.isdecimal())
    assert steps == ["000010", "000060"]
    cluster.store.release(second)
    assert done(cluster, second).starts_from is not None


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


def test_another_box_brings_the_weights_back_from_a_copy(cluster: Cluster, share: Path) -> None:
    box_a = cluster.box("box-a")
    first = done(cluster, cluster.submit("first", steps=20, checkpoints={"copy_to": str(share)}))
    cluster.until(first.id, lambda record: record.copied and record.copied.step == 20)
    model = content(box_a.checkpoint(first.id, 20) / "pretrained_model")
    box_a.kill_everything()
    box_b = cluster.box("box-b")
    second = done(cluster, submit_from(cluster, "job:first"))
    assert second.box == "box-b" and content(start_of(box_b, second.id)) == model


def test_a_box_that_can_not_get_it_refuses_the_job_and_says_who_has_it(cluster: Cluster) -> None:
    box_a = cluster.box("box-a")
    first = done(cluster, cluster.submit("first", steps=20))
    box_a.kill_everything()
    cluster.box("box-b")
    second = submit_from(cluster, "job:first")
    said = cluster.refused(second, "box-b")
    assert f"weights: job:{first.id}@20, from which it starts, is not here; box-a has it" in said
    assert "box-a has it" in cluster.pi0q("why", second).stdout
    box_a.start()
    assert done(cluster, second).box == "box-a"
