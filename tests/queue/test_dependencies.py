"""Jobs that start after other jobs or a time: released by the end of the other job, mended by the sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.queue.retention import Retention
from pi0q.queue.store import Store
from tests.conftest import Answer, Command, JobDriver

TRAIN = {"dataset.repo_id": "local/d", "dataset.root": "d", "policy.type": "act", "policy.push_to_hub": False}


def end(store: Store, job: str, epoch: int, reason: Reason = Reason.FINISHED) -> State | None:
    return store.move(job, transition.ended(store.get(job), epoch, reason, "so it ended"))


def fail(store: Store, job: str, epoch: int) -> State | None:
    return end(store, job, epoch, Reason.SPEC_REFUSED)


def queue(store: Store) -> list[str]:
    return [job.name for job in store.waiting()]


@pytest.fixture
def submit(call: Command, tmp_path: Path) -> Any:
    def submit(name: str, *options: str, train: Mapping[str, Any] | None = None, **keys: Any) -> Answer:
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps({"name": name, **keys, "train": {**TRAIN, **(train or {})}}))
        return call("submit", str(file), *options)

    return submit


def id_of(answer: Answer) -> str:
    assert answer.returncode == 0, answer.stderr
    return str(json.loads(answer.stdout)["id"])


def test_job_waits_until_the_other_has_succeeded(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    first = driver.submit("train")
    said = submit("evaluate", after="train")
    assert "It starts after a success of train" in said.stdout and "pi0q retry" in said.stdout
    waits = store.get(store.resolve("evaluate"))
    assert (waits.state, waits.reason, waits.label) == (State.WAITING, Reason.AFTER_JOB, "waiting")
    assert waits.awaits == {first: "ok"} and waits.spec["after"] == {"ok": [first]}
    assert queue(store) == ["train"] and store.sweep(every_seconds=0.0) == []
    assert f"starts after train ({first})" in call("ls").stdout and "1 waiting" not in call("ls").stderr
    assert "starts after train" in call("why", "evaluate").stdout
    end(store, first, driver.run(first))
    assert queue(store) == ["evaluate"]
    released = store.get(waits.id)
    assert (released.state, released.reason, released.awaits, released.detail) == (State.QUEUED, None, {}, "")
    assert store.client.exists(store.prefix + f"dependants:{first}") == 0


def test_job_comes_behind_those_that_waited_in_the_queue(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    submit("evaluate", after=["train"])
    driver.submit("other")
    end(store, first, driver.run(first))
    assert queue(store) == ["other", "evaluate"]


def test_failure_keeps_it_waiting_and_a_retry_takes_the_place(
    store: Store, driver: JobDriver, submit: Any, call: Command
) -> None:
    first = id_of(submit("train", "--json"))
    second, third = (
        id_of(submit("evaluate", "--json", after="train")),
        id_of(submit("push", "--json", after="evaluate")),
    )
    fail(store, first, driver.run(first))
    stuck = store.get(second)
    assert (stuck.state, stuck.reason) == (State.WAITING, Reason.AFTER_FAILED)
    assert stuck.detail == f"train ({first}) failed, and it starts after a success of that"
    why = call("why", second).stdout
    assert "pi0q retry" in why and f"pi0q release {second}" in why
    assert store.get(third).reason is Reason.AFTER_JOB
    again = json.loads(call("retry", first, "--json").stdout)["id"]
    moved = store.get(second)
    assert (moved.reason, moved.awaits) == (Reason.AFTER_JOB, {again: "ok"})
    end(store, again, driver.run(again))
    assert queue(store) == ["evaluate"]
    end(store, second, driver.run(second))
    assert queue(store) == ["push"]


def test_any_end_is_enough_where_it_says_so(store: Store, driver: JobDriver, submit: Any) -> None:
    first, other = driver.submit("train"), driver.submit("clean")
    job = id_of(submit("evaluate", "--json", after={"any": ["train"], "ok": ["clean"]}))
    fail(store, first, driver.run(first))
    assert store.get(job).awaits == {other: "ok"} and queue(store) == ["clean"]
    end(store, other, driver.run(other))
    assert queue(store) == ["evaluate"]


def test_cancelled_job_holds_its_dependants_back_and_release_lets_them_go(
    store: Store, driver: JobDriver, submit: Any, call: Command
) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train"))
    store.cancel(first, text="cancelled by ada")
    assert f"train ({first}) was cancelled" in store.get(job).detail
    assert "queued now" in call("release", job).stdout
    assert queue(store) == ["evaluate"] and store.get(job).awaits == {}


def test_cancelling_the_dependant_leaves_nothing_behind(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train", start_after="2h"))
    assert store.cancel(job, text="cancelled by ada") is State.CANCELLED
    for key in (f"dependants:{first}", "timed", "conditional"):
        assert store.client.exists(store.prefix + key) == 0
    end(store, first, driver.run(first))
    assert store.get(job).state is State.CANCELLED


def test_hold_and_release_of_a_dependant_leave_its_conditions(
    store: Store, driver: JobDriver, submit: Any, call: Command
) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train"))
    call("hold", job)
    held = store.get(job)
    assert (held.label, held.reason, held.wish) == ("held", Reason.HELD, "")
    assert "it waits: starts after train" in call("release", job).stdout
    call("hold", job)
    end(store, first, driver.run(first))
    assert store.get(job).label == "held" and queue(store) == []
    call("release", job)
    assert queue(store) == ["evaluate"]


def test_after_a_job_that_has_succeeded_is_queued_at_once(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    end(store, first, driver.run(first))
    assert json.loads(submit("evaluate", "--json", after="train").stdout)["state"] == "queued"
    assert queue(store) == ["evaluate"]


def test_sweep_releases_what_a_lost_second_kept_back(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train"))
    store.client.delete(store.prefix + f"dependants:{first}")
    end(store, first, driver.run(first))
    assert store.get(job).state is State.WAITING
    assert store.sweep(every_seconds=0.0) == [job] and queue(store) == ["evaluate"]


def test_prune_keeps_a_job_that_others_wait_for(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train"))
    fail(store, first, driver.run(first))
    assert store.prune(Retention(days=None, jobs=0)) == []
    store.cancel(job, text="cancelled by ada")
    assert set(store.prune(Retention(days=None, jobs=0))) == {first, job}


def test_removed_job_counts_as_one_that_failed(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train"))
    store.client.hset(store.prefix + f"job:{first}", "needs", "damage")
    assert store.discard(first, text="removed")
    assert store.get(job).reason is Reason.AFTER_FAILED and "gone" in store.get(job).detail


def test_start_time_is_waited_for(store: Store, submit: Any, call: Command) -> None:
    job = id_of(submit("later", "--json", start_after="2h"))
    waits = store.get(job)
    assert (waits.state, waits.reason) == (State.WAITING, Reason.AFTER_TIME)
    assert waits.start_ms and abs(waits.start_ms - waits.created_ms - 7_200_000) < 60_000
    assert "starts at 2" in call("ls").stdout
    store.call_again()
    assert queue(store) == []
    # As if the time had come.
    store.client.hset(store.prefix + f"job:{job}", "start_ms", waits.created_ms)
    store.client.zadd(store.prefix + "timed", {job: waits.created_ms})
    store.call_again()
    assert queue(store) == ["later"] and store.client.exists(store.prefix + "timed") == 0


def test_time_that_is_past_is_told_and_not_waited_for(store: Store, submit: Any) -> None:
    said = submit("later", start_after="2026-01-02T03:04+08:00")
    assert "is past" in said.stdout and queue(store) == ["later"]


def test_both_job_and_time_are_waited_for(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train", start_after="2h"))
    end(store, first, driver.run(first))
    assert store.get(job).reason is Reason.AFTER_TIME and queue(store) == []


def test_circle_is_refused_and_nothing_queued(call: Command, tmp_path: Path, store: Store) -> None:
    for name, after in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"name": name, "after": after, "train": TRAIN}))
    said = call("submit", "a.yaml", "b.yaml", "c.yaml")
    assert said.returncode == 2 and "a -> b -> c -> a" in said.stderr and queue(store) == []


def test_files_of_one_submit_wait_for_each_other(
    call: Command, tmp_path: Path, store: Store, driver: JobDriver
) -> None:
    driver.submit("train")  # an older job of the name is not meant
    for name, after in (("push", ["evaluate"]), ("evaluate", ["train"]), ("train", [])):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"name": name, "after": after, "train": TRAIN}))
    told = json.loads(call("submit", "push.yaml", "evaluate.yaml", "train.yaml", "--json").stdout)
    ids = {job["name"]: job["id"] for job in told}
    assert [job["state"] for job in told] == ["queued", "waiting", "waiting"]
    assert store.get(ids["evaluate"]).awaits == {ids["train"]: "ok"}
    assert store.get(ids["push"]).awaits == {ids["evaluate"]: "ok"}
    again = json.loads(call("submit", "push.yaml", "evaluate.yaml", "train.yaml", "--json").stdout)
    assert {job["id"] for job in again} == set(ids.values()) and not any(job["new"] for job in again)


def test_every_unknown_name_is_told(submit: Any, store: Store) -> None:
    said = submit("evaluate", after=["nothere", "norhere"])
    assert said.returncode == 2 and "nothere" in said.stderr and "norhere" in said.stderr
    assert store.page().jobs == ()


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"after": {"success": ["train"]}}, "takes `ok`"),
        ({"after": "job:train"}, "without `job:` before it: write train"),
        ({"after": [["train"]]}, "must be a job's name or id"),
        ({"start_after": 2}, "must be a duration like 2h"),
        ({"start_after": "2026-11-30T02:00"}, "has no zone"),
        ({"start_after": "2026-02-30T02:00Z"}, "is no time that exists"),
        ({"start_after": "1999-01-01 00:00Z"}, "years 2020 to 2200"),
        ({"start_after": "tomorrow"}, "must be a duration like 2h"),
    ],
)
def test_bad_conditions_are_told_with_their_line(keys: dict[str, Any], why: str, submit: Any, store: Store) -> None:
    said = submit("evaluate", **keys)
    assert said.returncode == 2 and why in said.stderr and "evaluate.yaml:1" in said.stderr, said.stderr
    assert store.page().jobs == ()


# -- start from what the awaited job ends with ---------------------------------------------------------


def saved(step: int) -> Saved:
    return Saved(step=step, path=f"/data/runs/x/output/checkpoints/{step:06d}", manifest=f"{step:064x}", bytes=10**6)


def test_start_is_the_checkpoint_that_the_awaited_job_ends_with(store: Store, driver: JobDriver, submit: Any) -> None:
    first = driver.submit("train", spec={"name": "train", "train": TRAIN})
    epoch = driver.run(first)
    driver.report(first, epoch, checkpoint=saved(10), lerobot="0.6.1")
    start = {"policy.pretrained_path": "job:train"}
    said = submit("finetune", after="train", train=start)
    assert "starts from the checkpoint that train ends with" in said.stderr
    job = store.resolve("finetune")
    waits = store.get(job)
    assert waits.starts_from is None and waits.spec["train"]["policy.pretrained_path"] == f"job:{first}"
    driver.report(first, epoch, checkpoint=saved(20))
    end(store, first, epoch)
    fixed = store.get(job).starts_from
    assert fixed and (fixed.job, fixed.step, fixed.manifest, fixed.lerobot) == (first, 20, saved(20).manifest, "0.6.1")
    assert store.get(first).starters == {job: 20} and queue(store) == ["finetune"]


def test_job_waits_where_the_other_left_no_checkpoint(
    store: Store, driver: JobDriver, submit: Any, call: Command
) -> None:
    first = driver.submit("train", spec={"name": "train", "train": TRAIN})
    job = id_of(submit("finetune", "--json", after={"any": ["train"]}, train={"policy.pretrained_path": "job:train"}))
    fail(store, first, driver.run(first))
    assert store.get(job).reason is Reason.AFTER_FAILED and "no verified checkpoint" in store.get(job).detail
    assert "still waits" in call("release", job).stdout and queue(store) == []


def test_start_follows_a_retry(store: Store, driver: JobDriver, submit: Any, call: Command) -> None:
    first = id_of(submit("train", "--json"))
    job = id_of(submit("finetune", "--json", after="train", train={"policy.pretrained_path": "job:train"}))
    fail(store, first, driver.run(first))
    again = json.loads(call("retry", first, "--json").stdout)["id"]
    epoch = driver.run(again)
    driver.report(again, epoch, checkpoint=saved(30), lerobot="0.6.1")
    end(store, again, epoch)
    fixed = store.get(job).starts_from
    assert fixed and (fixed.job, fixed.step) == (first, 30)


def test_start_of_another_policy_is_refused_at_submit(store: Store, driver: JobDriver, submit: Any) -> None:
    driver.submit("train", spec={"name": "train", "train": {**TRAIN, "policy.type": "diffusion"}})
    said = submit("finetune", after="train", train={"policy.pretrained_path": "job:train"})
    assert said.returncode == 2 and "trains diffusion, and this job act" in said.stderr


def test_dependant_cancelled_while_it_waited_waits_again_after_a_retry(
    store: Store, driver: JobDriver, submit: Any, call: Command
) -> None:
    first = driver.submit("train")
    job = id_of(submit("evaluate", "--json", after="train"))
    call("cancel", job)
    again = json.loads(call("retry", job, "--json").stdout)
    assert again["state"] == "waiting" and store.get(again["id"]).awaits == {first: "ok"}
