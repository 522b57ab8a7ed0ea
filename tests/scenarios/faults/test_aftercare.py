"""Rows 27, 28, 45: a tracker or the Hub fails, and the training has nothing to do with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pi0q.jobs.record import Record
from tests.rig.cluster import send, wait
from tests.scenarios.faults.scenarios import FREQ, MIDDLE, STEPS, dies, nothing_left
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.workers.standin_swanlab import StandInSwanLab
from tests.workers.standin_wandb import StandInWandB

if TYPE_CHECKING:
    from tests.rig.cluster import Box, Cluster

KEY = "k" * 40
ONLINE = {"wandb": {"enable": True, "project": "trials"}}


@pytest.fixture
def wandb() -> Iterator[StandInWandB]:
    with StandInWandB() as standin:
        standin.keys[KEY] = "ada"
        yield standin


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(hosts=("127.0.0.3", "127.0.0.6")) as hub:
        yield hub


def tracked(cluster: Cluster, wandb: StandInWandB, **env: Any) -> Box:
    """A box that has a key of WandB."""
    return cluster.box(WANDB_BASE_URL=wandb.url, WANDB_API_KEY=KEY, WANDB_MODE="", **env)


def pushing(cluster: Cluster, hub: StandInHub) -> Box:
    """A box that may push to the Hub."""
    return cluster.box(PI0Q_HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="", HF_HUB_DISABLE_XET="1",
                     PI0Q_NETWORK_TURBO=str(cluster.place / "none"))  # fmt: skip


def untouched(box: Box, record: Record) -> None:
    """The training went through in one life, each step once."""
    assert (str(record.state), record.attempt, record.epoch, record.step) == ("succeeded", 1, 1, STEPS)
    assert len(box.lives(record.id)) == 1
    assert [event["step"] for event in box.events(record.id, "step")] == list(range(1, STEPS + 1))


def is_told(cluster: Cluster, job: str, *words: str) -> None:
    """`pi0q ls` says the first of it, `pi0q show` all."""
    for verb, told in ((["ls"], words[:1]), (["show", job], words)):
        shown = " ".join(cluster.pi0q(*verb).stdout.split())
        assert all(word in shown for word in told), shown


# -- 27 -----------------------------------------------------------------------------------------------


def test_row_27_wandb_is_down_and_is_told_later(cluster: Cluster, wandb: StandInWandB) -> None:
    wandb.status = 503
    box = tracked(cluster, wandb)
    job = cluster.submit(steps=STEPS, save_freq=FREQ, flags=ONLINE)
    untouched(box, cluster.ends(job))
    (told,) = box.events(job, "wandb")
    assert (told["offline"], told["run_id"]) == (True, f"pi0q-{job}")
    cluster.until(job, lambda record: record.wandb_sync.get("box-a", {}).get("tries"))
    is_told(cluster, job, "WandB offline, 0.0 MB to sync (WandB does not answer)")
    # A worker that dies forgets nothing of it.
    box.kill()
    wandb.status = 200
    box.start()
    box.says("takes jobs from")
    assert cluster.pi0q("retry", job).returncode == 0
    done = cluster.until(job, lambda record: record.wandb_sync["box-a"]["state"] == "done")
    assert done.wandb_url == f"{wandb.url}/ada/p/runs/pi0q-{job}"
    is_told(cluster, job, str(done.wandb_url))
    nothing_left(cluster, job)


def test_row_27_a_key_that_wandb_refuses_is_a_warning(cluster: Cluster, wandb: StandInWandB) -> None:
    wandb.keys.clear()
    box = tracked(cluster, wandb)
    job = cluster.submit(steps=STEPS, save_freq=FREQ, flags=ONLINE)
    untouched(box, cluster.ends(job))
    cluster.until(job, lambda record: record.wandb_sync.get("box-a", {}).get("tries"))
    is_told(cluster, job, "WandB refuses the key of box-a: run `wandb login` on it")
    assert "WandB: it refuses this box's key" in box.trainer_log(job)


def test_row_27_wandb_hangs_as_the_run_is_to_begin(cluster: Cluster, wandb: StandInWandB) -> None:
    """It answered a moment ago; a hung `init` can be ended by nothing but a new process."""
    box = tracked(cluster, wandb, FAKE_WANDB="hang", PI0Q_WANDB_BEGIN_S="0.5")
    job = cluster.submit(steps=STEPS, save_freq=FREQ, flags=ONLINE)
    done = cluster.ends(job)
    assert (str(done.state), done.attempt, done.step) == ("succeeded", 1, STEPS)
    assert "WandB failed (it did not answer in time); the trainer restarts" in box.trainer_log(job)
    cluster.until(job, lambda record: record.wandb_sync.get("box-a", {}).get("state") == "done")
    nothing_left(cluster, job)


def test_row_27_swanlab_refuses_the_key_a_trainer_is_killed_and_one_run_is_sent_later(cluster: Cluster) -> None:
    pytest.importorskip("swanlab")
    with StandInSwanLab() as swanlab:
        box = cluster.box(SWANLAB_API_HOST=swanlab.url, SWANLAB_WEB_HOST=swanlab.url, SWANLAB_API_KEY=KEY)
        cluster.slow_down(MIDDLE)
        job = cluster.submit(
            steps=STEPS, save_freq=FREQ, flags={"wandb": {"project": "trials"}, "log_freq": 1}, tracking="swanlab"
        )
        box.sealed(job, FREQ)
        box.steps(job, MIDDLE)
        trainer = box.trainer(job)
        send(signal.SIGKILL, trainer)
        dies(trainer)
        cluster.speed_up()
        done = cluster.ends(job)
        assert (str(done.state), done.attempt, done.step, done.wandb_dir) == ("succeeded", 2, STEPS, None)
        # Its key is refused so far.
        cluster.until(job, lambda record: record.swanlab_sync.get("box-a", {}).get("tries"))
        is_told(cluster, job, "MB to sync (SwanLab refuses the key of box-a: run `swanlab login --relogin` on it")
        swanlab.keys[KEY] = "ada"
        assert cluster.pi0q("retry", job).returncode == 0
        done = cluster.until(job, lambda record: record.swanlab_sync["box-a"]["state"] == "done")
        assert swanlab.steps(f"pi0q-{job}") == list(range(1, STEPS + 1)) and len(swanlab.runs) == 1
        assert done.swanlab_url == f"{swanlab.url}/@ada/trials/runs/pi0q-{job}"
        is_told(cluster, job, str(done.swanlab_url))
        assert KEY not in box.trainer_log(job)
        nothing_left(cluster, job)


# -- 28 -----------------------------------------------------------------------------------------------


def test_row_28_a_run_that_was_deleted_meanwhile_goes_on_as_another(cluster: Cluster, wandb: StandInWandB) -> None:
    deleted = cluster.place / "deleted"
    box = tracked(cluster, wandb, FAKE_WANDB=f"deleted@{deleted}")
    cluster.slow_down(MIDDLE)
    job = cluster.submit(steps=STEPS, save_freq=FREQ, flags=ONLINE)
    box.sealed(job, FREQ)
    box.steps(job, MIDDLE)
    before = cluster.until(job, lambda record: record.wandb_url and record.checkpoint)
    deleted.touch()
    trainer = box.trainer(job)
    send(signal.SIGKILL, trainer)
    dies(trainer)
    cluster.speed_up()
    done = cluster.ends(job)
    assert (str(done.state), done.attempt, done.wandb_run_id) == ("succeeded", 2, f"pi0q-{job}.2")
    assert done.wandb_url and done.wandb_url.endswith(f"/pi0q-{job}.2") and done.wandb_url != before.wandb_url
    told = f"{before.wandb_url} was deleted at WandB: it goes on as pi0q-{job}.2"
    assert told in [event.text for event in done.history]
    nothing_left(cluster, job)


# -- 45 -----------------------------------------------------------------------------------------------


def test_row_45_a_push_that_fails_is_a_success_with_a_pending_push(cluster: Cluster, hub: StandInHub) -> None:
    hub.faults.append(Fault(path="/commit/", status=500))
    box = pushing(cluster, hub)
    policy = {"type": "act", "device": "cpu", "repo_id": "you/it", "push_to_hub": True}
    job = cluster.submit(steps=STEPS, save_freq=FREQ, flags={"policy": policy})
    untouched(box, cluster.ends(job))
    cluster.until(job, lambda record: record.push.get("tries"))
    is_told(cluster, job, "pending: the Hub could not be reached for repository you/it (HTTP 500)")
    # The GPU is another's by now, and a worker that dies forgets nothing.
    other = cluster.ends(cluster.submit(steps=2))
    assert str(other.state) == "succeeded"
    box.kill()
    hub.faults.clear()
    hub.forget()
    box.start()
    box.says("takes jobs from")
    assert cluster.pi0q("retry", job).returncode == 0
    done = cluster.until(job, lambda record: record.push["state"] == "done")
    assert (done.push["url"], done.push["step"]) == (f"{hub.url}/you/it", STEPS)
    assert {"README.md", "config.json", "model.safetensors", "train_config.json"} <= set(hub.files("model", "you/it"))
    assert not [one for one in hub.requests if one.method == "PUT"], "what had come was sent again"
    is_told(cluster, job, "succeeded")
    assert f"{hub.url}/you/it step {STEPS}" in " ".join(cluster.pi0q("show", job).stdout.split())
    nothing_left(cluster, job)
    assert _secrets(cluster.place) == []


def _secrets(place: Path) -> list[Path]:
    """Files of the cluster that hold the token."""
    files = [path for path in place.rglob("*") if path.is_file()]
    return [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_row_45_without_a_right_to_push_the_cure_is_told(cluster: Cluster, hub: StandInHub) -> None:
    """The preflight asks for that right; it can be lost in two days."""
    box = pushing(cluster, hub)
    policy = {"type": "act", "device": "cpu", "repo_id": "you/it"}
    job = cluster.submit(steps=STEPS, save_freq=FREQ, flags={"policy": policy})
    box.steps(job, 1)
    hub.account = "another"
    untouched(box, cluster.ends(job))
    cluster.until(job, lambda record: record.push.get("tries"))
    cure = "run `hf auth login` on box-a with a token that may write to you/it, then `pi0q retry"
    is_told(cluster, job, "pending: the Hub denies this box's token access to repository you/it (HTTP 403)", cure)
    wait(lambda: "push not done" in box.log, "a line of the worker's")
