"""`pi0q cache`, as it is typed on a box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pi0q.queue.settings import Settings
from pi0q.queue.store import Store
from pi0q.workers.host import usage_locks
from pi0q.workers.runs.postrun_tasks import PostrunTask, PostrunTasks
from pi0q.workers.storage import tool_caches
from tests.conftest import Command, JobDriver
from tests.workers.caches import DAY, a_run, checkpoint, fill, repo

pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def nothing_held() -> Any:
    yield
    usage_locks.release()


@pytest.fixture(autouse=True)
def a_bare_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches of whoever runs the tests are none of theirs."""
    monkeypatch.setattr(tool_caches, "found", lambda home: [("~/.cache/pip", 3174, "pip cache purge")])


@pytest.fixture
def chosen(env: dict[str, str], chosen: Settings) -> Settings:
    env["PI0Q_HF_HOME"] = str(chosen.hf_home)
    return chosen


def listed(call: Command) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(call("cache", "ls", "--json").stdout)
    return told


def test_it_lists_caches_in_the_order_in_which_they_go_and_runs(
    call: Command, chosen: Settings, driver: JobDriver
) -> None:
    repo(chosen.hf_home, "you/new", used=2 * DAY)
    repo(chosen.hf_home, "you/set", kind="dataset")
    directory = a_run(chosen, driver.submit())
    checkpoint(directory, 10)
    checkpoint(directory, 5, bad=True)
    told = listed(call)
    assert [(one["kind"], one["name"], one["mib"], one["pinned"]) for one in told["caches"]] == [
        ("dataset", "datasets/you/set", 2, False),
        ("model", "you/new", 2, False),
    ]
    (run,) = told["runs"]
    assert (run["state"], run["last_verified_step"], run["replaced_mib"]) == ("queued", 10, 1)
    assert told["disk"]["free_mib"] > 0
    shown = call("cache", "ls").stdout
    assert "grab_box · queued · verified: step 10" in shown
    assert "On the system disk: ~/.cache/pip 3.1 GiB; `pip cache purge` empties it." in shown


def test_an_empty_box(call: Command) -> None:
    answer = call("cache", "ls")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "in all" in answer.stdout


def test_cache_rm_removes_named_caches_after_confirmation(call: Command, chosen: Settings) -> None:
    folder = repo(chosen.hf_home, "you/old")
    fill(chosen.home / "cache" / "triton" / "x", 1)
    unsure = call("cache", "rm", "you/old")
    assert unsure.returncode == 2 and "add --yes" in unsure.stderr and folder.exists()
    answer = call("cache", "rm", "you/old", "triton", "--yes")
    assert answer.returncode == 0 and "Freed " in answer.stdout
    assert listed(call)["caches"] == [] and not folder.exists()


def test_a_dataset_and_a_model_of_one_name_are_told_apart(call: Command, chosen: Settings) -> None:
    repo(chosen.hf_home, "you/x")
    repo(chosen.hf_home, "you/x", kind="dataset")
    call("cache", "rm", "datasets/you/x", "--yes")
    assert [one["name"] for one in listed(call)["caches"]] == ["you/x"]


def test_cache_rm_keeps_pinned_and_used_caches(call: Command, chosen: Settings) -> None:
    repo(chosen.hf_home, "you/x")
    assert "Pinned you/x (undo: `pi0q cache unpin you/x`)." in call("cache", "pin", "you/x").stdout
    assert listed(call)["caches"][0]["pinned"]
    refused = call("cache", "rm", "you/x", "--yes")
    assert refused.returncode == 2 and "Fix: `pi0q cache unpin you/x` first" in refused.stderr
    assert json.loads(call("cache", "unpin", "you/x", "--json").stdout) == [{"name": "you/x", "pinned": False}]
    usage_locks.hold(usage_locks.of_hub(chosen.hf_home), "models--you--x")
    used = call("cache", "rm", "you/x", "--yes")
    assert used.returncode == 2 and "A run on this box needs it" in used.stderr
    assert len(listed(call)["caches"]) == 1


def test_unknown_name_changes_nothing(call: Command, chosen: Settings) -> None:
    repo(chosen.hf_home, "you/x")
    for words in (["rm", "you/y", "--yes"], ["pin", "you/y"], ["rm", "you/x", "you/y", "--yes"]):
        answer = call("cache", *words)
        assert (answer.returncode, answer.stdout) == (3, ""), words
    assert len(listed(call)["caches"]) == 1, "a slip of the tongue removes nothing"


def ended(chosen: Settings, store: Store, driver: JobDriver) -> tuple[str, Path]:
    job = driver.submit(job_id="a1b2c3d4e5f6")
    store.cancel(job, text="cancelled")
    directory = a_run(chosen, job, ended="cancelled")
    for step in (10, 20):
        checkpoint(directory, step)
    return job, directory.path


def test_cache_rm_keeps_last_verified_checkpoint_without_whole(
    call: Command, chosen: Settings, store: Store, driver: JobDriver
) -> None:
    job, path = ended(chosen, store, driver)
    assert "all but its last verified checkpoint, step 20" in call("cache", "rm", "a1b2", "--yes").stdout
    assert [one.name for one in path.glob("output/checkpoints/*")] == ["000020"]
    again = call("cache", "rm", job, "--yes")
    assert again.returncode == 2 and "--whole` removes all of it" in again.stderr and path.exists()
    answer = call("cache", "rm", "grab_box", "--whole", "--yes", "--json")
    assert json.loads(answer.stdout)["freed_mib"] == 1
    assert not path.exists()


def test_cache_rm_removes_nothing_of_an_active_job(call: Command, chosen: Settings, driver: JobDriver) -> None:
    job = driver.submit()
    directory = a_run(chosen, job)
    for step in (10, 20):
        checkpoint(directory, step)
    for words in ([job], [job, "--whole"]):
        answer = call("cache", "rm", *words, "--yes")
        assert answer.returncode == 2 and f"Fix: end it first: `pi0q cancel {job}`." in answer.stderr
    assert len(list(directory.checkpoints.iterdir())) == 2


def test_cache_rm_uses_the_ledger_without_the_queue(
    call: Command, chosen: Settings, store: Store, driver: JobDriver
) -> None:
    away = {"PI0Q_REDIS_URL": "redis://127.0.0.1:1/0"}
    job, path = ended(chosen, store, driver)
    other = a_run(chosen, "b1b2c3d4e5f6")
    checkpoint(other, 10)
    told = json.loads(call("cache", "ls", "--json", **away).stdout)
    assert [run["state"] for run in told["runs"]] == ["cancelled", None]
    answer = call("cache", "rm", "b1b2c3d4e5f6", "--whole", "--yes", **away)
    assert answer.returncode == 2 and "the queue does not answer" in answer.stderr and other.path.exists()
    assert call("cache", "rm", job, "--whole", "--yes", **away).returncode == 0
    assert not path.exists()


def test_a_job_that_an_emptied_queue_does_not_know_may_go(call: Command, chosen: Settings) -> None:
    directory = a_run(chosen, "a1b2c3d4e5f6")
    checkpoint(directory, 10)
    assert listed(call)["runs"][0]["state"] == "unknown to the queue"
    assert call("cache", "rm", "a1b2c3d4e5f6", "--whole", "--yes").returncode == 0
    assert not directory.path.exists()


def test_what_a_run_has_not_sent_yet_is_said_before_it_goes(call: Command, chosen: Settings) -> None:
    directory = a_run(chosen, "a1b2c3", ended="succeeded")
    checkpoint(directory, 10)
    PostrunTasks(directory.path).add(PostrunTask(kind="push", epoch=1, box="box-a", result={"repo": "you/it"}))
    assert listed(call)["runs"][0]["unsent"] == ["push to you/it"]
    assert "push to you/it not done yet" in call("cache", "ls").stdout
    # What it keeps without being told otherwise is what the push needs.
    assert call("cache", "rm", "a1b2c3", "--yes").returncode == 2 and directory.checkpoints.exists()
    gone = json.loads(call("cache", "rm", "a1b2c3", "--whole", "--yes", "--json").stdout)
    assert gone["removed"][0]["what"].endswith("including what is not sent yet (push to you/it)")
    assert not directory.path.exists()
