"""02c: weights whose policy_preprocessor.json names a class to import ran any command as the box's user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.attacks import evil
from tests.rig.cluster import TESTS
from tests.standin_hub import TOKEN, StandInHub

if TYPE_CHECKING:
    from tests.attacks.conftest import Box, Cluster

WHY = "policy_preprocessor.json, step 1: class 'subprocess.Popen' is no processor step of LeRobot"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "PWNED"


def flags(base: str) -> dict[str, Any]:
    return {"policy": {"type": "act", "device": "cpu", "push_to_hub": False, "pretrained_path": base}}


def refused(cluster: Cluster, box: Box, job: str, marker: Path) -> str:
    """The job failed for this, the box's owner can read of it, and nothing ran; what its user reads."""
    done = cluster.ends(job)
    assert (str(done.state), str(done.reason)) == ("failed", "unsafe_weights"), done.detail
    assert WHY in done.detail
    assert box.lives(job) == [], "no trainer was started"
    assert not marker.exists()
    return f"{done.detail} {done.fix}"


def test_a_trainer_would_run_it(marker: Path, tmp_path: Path) -> None:
    """The stand-in for LeRobot does what the real one does; else the other tests would prove nothing."""
    base = evil.model(tmp_path / "evil", marker)
    code = (
        f"from pathlib import Path; from lerobot.processor import make_steps; make_steps(Path({str(base)!r}))[0].wait()"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(TESTS / "fake_lerobot")}, check=True)
    assert marker.exists()


def test_weights_in_a_directory(cluster: Cluster, marker: Path) -> None:
    box = cluster.box()
    base = evil.model(cluster.place / "evil", marker)
    told = refused(cluster, box, cluster.submit(flags=flags(str(base))), marker)
    assert str(base) in told and "PI0Q_ALLOW_CODE" in told


def test_weights_from_the_hub(cluster: Cluster, marker: Path) -> None:
    """As they were submitted: refused before any box takes the job."""
    with StandInHub() as hub:
        files = {"config.json": b"{}", "model.safetensors": evil.WEIGHTS}
        sha = hub.commit("model", "mallory/act", {**files, "policy_preprocessor.json": evil.processors(marker)})
        box = cluster.box(PI0Q_HF_ENDPOINT=hub.url, PI0Q_HF_MIRROR="off", HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1")
        job = cluster.submit(flags=flags("mallory/act"))
        told = refused(cluster, box, job, marker)
        record = cluster.store.get(job)
    assert (record.epoch, record.attempt) == (0, 0), "no box ever took it"
    assert told.startswith(f"preflight: mallory/act at {sha[:8]} would run code on the box, or can't be judged: {WHY}")
    assert f"preflight: mallory/act at {sha[:8]} would run code" in box.log, "the box's owner reads it too"


def test_weights_that_changed_in_the_cache_after_the_preflight(cluster: Cluster, marker: Path) -> None:
    with StandInHub() as hub:
        hub.commit("model", "lerobot/act", {"config.json": b"{}", "model.safetensors": evil.WEIGHTS})
        box = cluster.box(PI0Q_HF_ENDPOINT=hub.url, PI0Q_HF_MIRROR="off", HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1")
        cluster.slow_down(2)
        job = cluster.submit(steps=40, flags=flags("lerobot/act"))
        box.steps(job, 2)
        box.crash()
        (snapshot,) = (box.home / "huggingface/hub/models--lerobot--act/snapshots").iterdir()
        (snapshot / "policy_preprocessor.json").write_bytes(evil.processors(marker))
        cluster.speed_up()
        box.start()
        done = cluster.ends(job)
    assert (str(done.state), str(done.reason)) == ("failed", "unsafe_weights"), done.detail
    assert done.detail.startswith(f"lerobot/act at {snapshot.name[:8]} would run code on the box")
    assert len(box.lives(job)) == 1 and not marker.exists()


def test_a_checkpoint_that_was_changed_on_the_disk(cluster: Cluster, marker: Path) -> None:
    """Also one whose manifest was made anew: what counts is what LeRobot would read now."""
    from pi0q.workers.checkpoints import local_store

    box = cluster.box()
    cluster.slow_down(24)
    job = cluster.submit(steps=60, save_freq=20)
    saved = box.sealed(job, 20)
    cluster.until(job, lambda record: record.checkpoint)
    box.crash()
    # A record that names no checkpoint of that step: what a box seals by itself is taken then.
    cluster.store.client.hdel(f"{cluster.prefix}job:{job}", "checkpoint")
    (saved / "pretrained_model" / "policy_preprocessor.json").write_bytes(evil.processors(marker))
    (saved / "pi0q.manifest.json").unlink()
    local_store.seal(saved, step=20, epoch=1)
    cluster.speed_up()
    box.start()
    done = cluster.ends(job)
    assert (str(done.state), str(done.reason)) == ("failed", "unsafe_weights"), done.detail
    assert f"checkpoint 20 would run code on the box, or can't be judged: {WHY}" in done.detail
    assert len(box.lives(job)) == 1 and not marker.exists()
    assert "refused: checkpoint 20 would run code" in box.trainer_log(job)


def test_a_checkpoint_that_is_not_the_one_of_the_record(cluster: Cluster) -> None:
    """Whole in itself, with a manifest of its own, under the step that the record names: it is moved aside."""
    from pi0q.workers.checkpoints import local_store

    box = cluster.box()
    cluster.slow_down(24)
    job = cluster.submit(steps=60, save_freq=20)
    saved = box.sealed(job, 20)
    cluster.until(job, lambda record: record.checkpoint)
    box.crash()
    (saved / "pretrained_model" / "config.json").write_text("{}")
    (saved / "pi0q.manifest.json").unlink()
    local_store.seal(saved, step=20, epoch=1)
    cluster.speed_up()
    box.start()
    assert str(cluster.ends(job).state) == "succeeded"
    assert "checkpoint 20 is not the one that the job's record names" in box.trainer_log(job)
    assert box.events(job, "ready")[-1]["step"] == 0
