"""Start of a job from another job's checkpoint: what a submit makes of `job:NAME`, and what is kept for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.start_point import StartPoint
from pi0q.queue.retention import Retention
from pi0q.queue.store import Store
from tests.conftest import Command, JobDriver

TRAIN = {"dataset.repo_id": "local/d", "dataset.root": "d", "policy.type": "act", "policy.push_to_hub": False}


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"/data/runs/x/output/checkpoints/{step:06d}", manifest=f"{step:064x}", bytes=10**6)


def trained(driver: JobDriver, name: str = "first", *, train: Mapping[str, Any] | None = None, **fields: Any) -> str:
    """A running job with checkpoints of steps 10 and 20."""
    job = driver.submit(name, spec={"name": name, "train": {**TRAIN, **(train or {})}})
    verified = {"10": saved(10).manifest, "20": saved(20).manifest}
    told = {"step": 25, "checkpoint": saved(20), "verified": verified, "lerobot": "0.6.1"}
    driver.report(job, driver.run(job), **{**told, **fields})
    return job


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "second.yaml"


def write(file: Path, start: str, train: Mapping[str, Any] | None = None) -> str:
    flags = {**TRAIN, "policy.pretrained_path": start, **(train or {})}
    file.write_text(json.dumps({"name": "second", "train": flags}))
    return str(file)


def test_submit_starts_from_the_newest_checkpoint_of_a_name(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    first = trained(driver)
    said = call("submit", write(file, "job:first"), "--json")
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    second = store.get(told["id"])
    start = StartPoint(job=first, step=20, manifest=saved(20).manifest, lerobot="0.6.1")
    assert second.starts_from == start and told["starts_from"] == start.to_json()
    assert second.spec["train"]["policy.pretrained_path"] == f"job:{first}@20"
    assert f"second: starts from step 20 of first ({first}) on box-a; it is kept until then." in said.stderr
    assert f"step 20 of job {first}" in call("show", second.id).stdout
    assert f"job {second.id} (step 20)" in call("show", first).stdout


def test_submit_starts_from_a_step_of_an_id(call: Command, driver: JobDriver, store: Store, file: Path) -> None:
    first = trained(driver)
    second = store.get(json.loads(call("submit", write(file, f"job:{first}@10"), "--json").stdout)["id"])
    assert second.starts_from and (second.starts_from.step, second.starts_from.manifest) == (10, saved(10).manifest)


def test_dry_run_says_what_it_starts_from_and_queues_nothing(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    first = trained(driver)
    said = call("submit", write(file, "job:first@10"), "--dry-run", "--json")
    assert json.loads(said.stdout)["starts_from"]["step"] == 10
    assert "starts from step 10 of first" in said.stderr
    assert [job.id for job in store.page().jobs] == [first] and store.get(first).starters == {}


@pytest.mark.parametrize(
    ("start", "train", "why", "cure"),
    [
        ("job:nobody", {}, "No job's id starts with 'nobody'", "pi0q ls --all"),
        ("job:first@15", {}, "has no verified checkpoint of step 15; it has 10, 20", "policy.pretrained_path: job:"),
        ("job:first", {"policy.type": "diffusion"}, "trains act, and this job diffusion", "policy: {type: act}"),
    ],
)
def test_submit_refuses_a_start_that_can_not_be(
    start: str, train: dict[str, Any], why: str, cure: str, call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    trained(driver)
    said = call("submit", write(file, start, train))
    assert said.returncode == 2
    lines = said.stderr.splitlines()
    assert f"train.policy.pretrained_path is {start}: " in lines[0] and why in lines[0]
    assert lines[1] == "Nothing was queued." and lines[2].startswith("Fix: ") and cure in lines[2]
    assert len(store.page().jobs) == 1


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ({"checkpoint": None, "verified": {}}, "has no verified checkpoint yet"),
        ({"lerobot": "0.4.4", "train": {}}, "made its checkpoint with LeRobot 0.4.4, and this job is none for that"),
        ({"train": {"peft.r": 8}}, "trains an adapter"),
    ],
)
def test_submit_refuses_a_job_whose_checkpoints_do_not_serve(
    first: dict[str, Any], why: str, call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    trained(driver, **first)
    said = call("submit", write(file, "job:first", {"eval_steps": 5, "dataset.eval_split": 0.1}))
    assert said.returncode == 2 and why in said.stderr and "Fix: " in said.stderr
    assert len(store.page().jobs) == 1


def test_all_faults_of_several_files_are_told_at_once(call: Command, driver: JobDriver, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.yaml", f"job:{name}") for name in ("one", "two")]
    said = call("submit", *files)
    assert said.returncode == 2 and "is job:one" in said.stderr and "is job:two" in said.stderr


def test_a_rehearsal_starts_from_nothing(call: Command, driver: JobDriver, store: Store, file: Path) -> None:
    first = trained(driver)
    second = json.loads(call("submit", write(file, "job:first"), "--rehearsal", "--json").stdout)["id"]
    assert store.get(second).starts_from is None and store.get(first).starters == {}


def test_what_went_on_from_the_named_job_has_its_checkpoints(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    first = trained(driver)
    store.move(first, transition.ended(store.get(first), 1, Reason.NON_FINITE_LOSS, "nan"))
    after = json.loads(call("retry", first, "--json").stdout)["id"]
    second = store.get(json.loads(call("submit", write(file, f"job:{first}@10"), "--json").stdout)["id"])
    assert second.starts_from and (second.starts_from.job, second.starts_from.step) == (after, 10)
    assert store.get(after).starters == {second.id: 10}


def kept(driver: JobDriver, job: str, epoch: int = 1) -> tuple[int, ...]:
    return driver.store.report(job, epoch, lease_seconds=600.0, fields={}).pinned_steps


def test_the_owner_keeps_the_checkpoint_until_all_that_start_from_it_have_ended(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    first = trained(driver)
    ids = [
        json.loads(call("submit", write(file, f"job:first@{step}"), "--again", "--json").stdout)["id"]
        for step in (10, 10, 20)
    ]
    store.pin(first, 5, on=True)
    assert kept(driver, first) == (5, 10, 20)
    assert store.get(first).protected_steps == (5, 10, 20) and store.get(first).pinned_steps == (5,)
    store.cancel(ids[0], text="")
    assert kept(driver, first) == (5, 10, 20)
    epoch = driver.run(ids[1])
    assert kept(driver, first) == (5, 10, 20)
    store.move(ids[1], transition.ended(store.get(ids[1]), epoch, Reason.FINISHED, "reached step 5"))
    assert kept(driver, first) == (5, 20)
    store.cancel(ids[2], text="")
    assert kept(driver, first) == (5,) and store.get(first).starters == {}


def test_a_retry_of_the_source_takes_over_what_is_kept(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    first = trained(driver)
    second = json.loads(call("submit", write(file, "job:first@10"), "--json").stdout)["id"]
    store.move(first, transition.ended(store.get(first), 1, Reason.NON_FINITE_LOSS, "nan"))
    after = json.loads(call("retry", first, "--json").stdout)["id"]
    assert store.get(after).starters == {second: 10}
    store.cancel(second, text="")
    assert store.get(after).starters == {} and store.get(first).starters == {}


def test_the_record_of_the_source_stays_while_a_job_starts_from_it(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    first = trained(driver)
    second = json.loads(call("submit", write(file, "job:first"), "--json").stdout)["id"]
    store.move(first, transition.ended(store.get(first), 1, Reason.FINISHED, "reached step 25"))
    assert store.prune(Retention(days=None, jobs=0)) == []
    store.cancel(second, text="")
    assert set(store.prune(Retention(days=None, jobs=0))) == {first, second}


def test_a_retry_starts_where_its_job_started(call: Command, driver: JobDriver, store: Store, file: Path) -> None:
    first = trained(driver)
    second = json.loads(call("submit", write(file, "job:first@10"), "--json").stdout)["id"]
    store.cancel(second, text="")
    third = store.get(json.loads(call("retry", second, "--json").stdout)["id"])
    assert third.starts_from == store.get(second).starts_from
    assert store.get(first).starters == {third.id: 10}


def test_a_policy_by_path_is_estimated_as_what_the_other_job_trained(
    call: Command, driver: JobDriver, store: Store, file: Path
) -> None:
    trained(driver, train={"policy.device": "cuda"})
    flags = {name: value for name, value in TRAIN.items() if name not in ("policy.type", "policy.pretrained_path")}
    told = []
    for model in ({"policy.path": "job:first"}, {"policy.type": "act"}):
        file.write_text(json.dumps({"name": "second", "train": {**flags, **model}}))
        told.append(json.loads(call("submit", str(file), "--json").stdout))
    assert told[0]["needs"]["vram_mib"] == told[1]["needs"]["vram_mib"] > 0
    by_path = store.get(told[0]["id"])
    assert by_path.base and by_path.base.policy == "act" and by_path.starts_from
