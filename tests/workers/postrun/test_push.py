"""The push of a trained policy, as a child process, to a stand-in of the Hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Record
from pi0q.jobs.spec import parse
from pi0q.jobs.transition import ended
from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.queue.submission import new_fields, put
from pi0q.workers.checkpoints import local_store
from pi0q.workers.postrun import push, scheduler
from pi0q.workers.postrun.scheduler import GiveUp, RetryLater, TaskContext
from pi0q.workers.runs.postrun_tasks import PostrunTask, PostrunTasks
from pi0q.workers.runs.run_directory import RunDirectory
from tests.conftest import JobDriver
from tests.standin_hub import TOKEN, Fault, StandInHub
from tests.workers.conftest import join_tries

pytest.importorskip("huggingface_hub")

JOB = """
resources: {gpus: 0, disk: 1MiB}
train:
  dataset: {repo_id: you/set}
  policy: {type: act, device: cpu, repo_id: you/it, private: true, tags: [arm], license: mit, pretrained_path: you/base}
  steps: 6
"""
WEIGHTS, MORE = b"w" * 50_000, b"n" * 9000


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        yield hub


@pytest.fixture
def settings(chosen: Settings, hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The stand-in speaks LFS, the other protocol for large files.
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    chosen.home.mkdir(exist_ok=True)
    turbo = chosen.home / "network_turbo"
    return replace(chosen, hf_endpoint=hub.url, hf_home=chosen.home / "huggingface", network_turbo=turbo, hf_mirror="")


def trained(store: Store, settings: Settings, text: str = JOB) -> tuple[Record, RunDirectory]:
    """A job that succeeded, with its last checkpoint."""
    job = str(put(store, new_fields(parse(text, filename="job.yaml")))["id"])
    directory = RunDirectory(settings.runs / job)
    place = directory.checkpoints / "000006"
    model, state = place / "pretrained_model", place / "training_state"
    policy = {"type": "act", "push_to_hub": False, "repo_id": "you/it", "pretrained_path": "/data/hf/snapshots/c0ffee"}
    config = {"policy": policy, "dataset": {"repo_id": "you/set", "root": "/data/hf/set", "revision": None}, "steps": 6}
    files: dict[Path, bytes] = {
        model / "config.json": json.dumps(policy).encode(),
        model / "train_config.json": json.dumps(config).encode(),
        model / "model.safetensors": WEIGHTS,
        model / "policy_preprocessor.json": b"{}",
        model / "policy_preprocessor_step_3_normalizer.safetensors": MORE,
        model / "notes.log": b"not for the Hub",
    }
    for name in ("training_step.json", "rng_state.safetensors", "optimizer_state.safetensors", "scheduler_state.json",
                 "optimizer_param_groups.json"):  # fmt: skip
        files[state / name] = b"{}"
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    saved = local_store.seal(place, step=6, epoch=1)
    driver = JobDriver(store)
    epoch = driver.run(job)
    driver.report(job, epoch, checkpoint=saved, step=6)
    record = store.get(job)
    assert store.move(job, ended(record, epoch, Reason.FINISHED, "reached step 6"), box="box-a")
    return store.get(job), directory


def context(settings: Settings, record: Record, directory: RunDirectory, said: list[str] | None = None) -> TaskContext:
    order = PostrunTask(kind="push", epoch=1, box="box-a", order={"repo": "you/it"})
    say = (said if said is not None else []).append
    return TaskContext(
        task=order, settings=settings, directory=directory, record=record, say=say, stopping=threading.Event()
    )


def test_it_sends_what_lerobot_would_have(store: Store, settings: Settings, hub: StandInHub) -> None:
    record, directory = trained(store, settings)
    directory.card.write_text("---\nlicense: mit\n---\n# of LeRobot's own hand\n")
    said: list[str] = []
    done = push.work(context(settings, record, directory, said))
    sent = hub.files("model", "you/it")
    assert set(sent) == {
        "README.md", "config.json", "train_config.json", "model.safetensors", "policy_preprocessor.json",
        "policy_preprocessor_step_3_normalizer.safetensors",
    }  # fmt: skip
    assert sent["model.safetensors"] == WEIGHTS and b"of LeRobot's own hand" in sent["README.md"]
    policy = {"type": "act", "push_to_hub": True, "repo_id": "you/it", "pretrained_path": "you/base"}
    assert json.loads(sent["config.json"]) == policy
    config = json.loads(sent["train_config.json"])
    assert config == {"policy": policy, "dataset": {"repo_id": "you/set", "root": None, "revision": None}, "steps": 6}
    assert done.detail == "step 6" and done.result["url"] == f"{hub.url}/you/it" and len(done.result["commit"]) == 40
    assert said[0] == "connecting to the Hub" and said[-1] == "uploading 0.1 MB"
    assert hub.tokens() == {f"Bearer {TOKEN}"}
    # The checkpoint is as it was: nothing of the push lies in it.
    assert local_store.newest(directory.checkpoints) == record.checkpoint


def test_a_push_that_was_cut_sends_nothing_twice(store: Store, settings: Settings, hub: StandInHub) -> None:
    record, directory = trained(store, settings)
    hub.faults.append(Fault(path=f"/lfs/{hub.digest(WEIGHTS)}", status=500))
    with pytest.raises(RetryLater, match="Hub"):
        push.work(context(settings, record, directory))
    assert hub.has(hub.digest(MORE)) and not hub.has(hub.digest(WEIGHTS))
    hub.faults.clear()
    hub.forget()
    push.work(context(settings, record, directory))
    put = [one.path for one in hub.requests if one.method == "PUT"]
    assert put == [f"/lfs/{hub.digest(WEIGHTS)}"]
    assert hub.files("model", "you/it")["model.safetensors"] == WEIGHTS


def test_once_more_changes_nothing(store: Store, settings: Settings, hub: StandInHub) -> None:
    """Its answer may have been lost."""
    record, directory = trained(store, settings)
    push.work(context(settings, record, directory))
    before = hub.files("model", "you/it")
    push.work(context(settings, record, directory))
    assert hub.files("model", "you/it") == before


@pytest.mark.parametrize(
    ("fault", "slowly", "words"),
    [
        (Fault(path="/api/repos/create", status=403), True, "run `hf auth login` on box-a"),
        (Fault(path="/api/repos/create", status=401), True, "then `pi0q retry"),
        (Fault(path="/api/", status=429, retry_after="900"), False, "the Hub was asked too often"),
        (Fault(path="/commit/", status=500), False, "the Hub could not be reached"),
    ],
)
def test_what_the_hub_refuses(
    store: Store, settings: Settings, hub: StandInHub, fault: Fault, slowly: bool, words: str
) -> None:
    record, directory = trained(store, settings)
    hub.faults.append(fault)
    with pytest.raises(RetryLater) as refused:
        push.work(context(settings, record, directory))
    assert words in str(refused.value) and refused.value.slowly is slowly
    assert refused.value.asked == (900 if fault.retry_after else 0)
    assert TOKEN not in str(refused.value)


def test_without_a_network_it_rests(store: Store, settings: Settings, hub: StandInHub) -> None:
    record, directory = trained(store, settings)
    hub.close()
    with pytest.raises(RetryLater, match="the Hub could not be reached for repository you/it") as refused:
        push.work(context(settings, record, directory))
    assert not refused.value.slowly


def test_a_worker_that_stops_waits_for_no_upload(store: Store, settings: Settings, hub: StandInHub) -> None:
    work = context(settings, *trained(store, settings))
    work.stopping.set()
    with pytest.raises(RetryLater, match="the worker stopped"):
        push.work(work)


def test_what_the_hub_calls_wrong_is_not_tried_again(store: Store, settings: Settings, hub: StandInHub) -> None:
    record, directory = trained(store, settings)
    hub.faults.append(Fault(path="/commit/", status=400))
    with pytest.raises(GiveUp, match="the Hub rejected the push to you/it"):
        push.work(context(settings, record, directory))


def test_a_checkpoint_that_is_gone_or_damaged_is_never_sent(store: Store, settings: Settings, hub: StandInHub) -> None:
    record, directory = trained(store, settings)
    weights = directory.checkpoints / "000006" / "pretrained_model" / "model.safetensors"
    weights.write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(GiveUp, match="is damaged: its SHA-256"):
        push.work(context(settings, record, directory))
    assert hub.files("model", "you/it") == {}
    with pytest.raises(GiveUp, match="the checkpoint of step 6 is not on box-a any more"):
        push.work(context(settings, record, RunDirectory(settings.runs / "elsewhere")))


def test_who_wants_a_push() -> None:
    def task_for(policy: str, more: str = "") -> PostrunTask | None:
        text = f"resources: {{gpus: 0, disk: 1MiB}}\ntrain: {{dataset: {{repo_id: a/b}}, policy: {{{policy}}}}}\n{more}"
        return push.task_for(parse(text, filename="x"), epoch=2, box="b")

    wanted = task_for("type: act, repo_id: me/p")
    assert wanted and wanted.to_record() == {"repo": "me/p", "state": "pending", "detail": "", "tries": 0}
    assert task_for("type: act, repo_id: me/p, push_to_hub: true")
    assert not task_for("type: act, repo_id: me/p, push_to_hub: false")
    assert not task_for("type: act")


def test_a_card_without_the_trainers_help() -> None:
    spec = parse(JOB, filename="x")
    assert push.plain_card(spec.train).splitlines()[:9] == [
        "---", 'datasets: "you/set"', 'library_name: "lerobot"', 'license: "mit"', 'model_name: "act"',
        'pipeline_tag: "robotics"', 'tags: ["act", "arm", "lerobot", "robotics"]', "---", "",
    ]  # fmt: skip


def test_the_record_says_where_it_is(store: Store, settings: Settings, hub: StandInHub) -> None:
    """The whole way once: task, child, Hub, record."""
    record, directory = trained(store, settings)
    task = push.task_for(parse(JOB, filename="x"), epoch=1, box="box-a")
    assert task
    PostrunTasks(directory.path).add(task)
    care = scheduler.PostrunScheduler(settings, store, box="box-a")
    care.round()
    join_tries()
    told: dict[str, Any] = dict(store.get(record.id).push)
    assert (told["state"], told["url"], told["step"]) == ("done", f"{hub.url}/you/it", 6)
