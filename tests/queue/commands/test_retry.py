"""`pi0q retry`: an ended job goes on under a new id from what the old one had saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi0q.jobs import transition
from pi0q.jobs.outcome import Reason
from pi0q.jobs.record import Saved
from pi0q.jobs.state import State
from pi0q.queue.store import Store
from pi0q.queue.store_types import PostrunStatus
from tests.conftest import Command, JobDriver

SPEC = {"name": "grab_box", "train": {"dataset.repo_id": "a/b", "policy.type": "act", "steps": 50000}}
SAVED = Saved(step=20000, path="/data/runs/x/output/checkpoints/020000", manifest="ab" * 32, bytes=28_000_000_000)


@pytest.fixture
def failed(store: Store, driver: JobDriver) -> str:
    job = driver.submit(spec=SPEC, wandb_run_id="pi0q-first", wandb_url="https://wandb.ai/e/p/runs/pi0q-first")
    epoch = driver.run(job)
    driver.report(job, epoch, step=23456, checkpoint=SAVED, pins={"a/b": "c0ffee00" * 5}, rehearsal={"ok": True})
    store.move(job, transition.ended(store.get(job), epoch, Reason.CUDA_OUT_OF_MEMORY, "CUDA out of memory"))
    return job


def test_it_goes_on_from_its_checkpoint_in_the_same_wandb_run(call: Command, store: Store, failed: str) -> None:
    said = call("retry", "grab_box")
    old = store.get(failed)
    new = store.get(old.continued)
    assert said.stdout == (
        f"grab_box goes on as {new.id}, from step 20000, on box-a if it can.  See it with: pi0q watch {new.id}\n"
    )
    assert (new.state, new.continues, new.checkpoint, new.box) == (State.QUEUED, failed, SAVED, "box-a")
    assert (new.wandb_run_id, new.pins, new.rehearsal) == ("pi0q-first", {"a/b": "c0ffee00" * 5}, {"ok": True})
    assert (new.epoch, new.attempt, new.reason, new.steps) == (0, 0, None, 50000)
    assert (old.state, old.reason) == (State.FAILED, Reason.CUDA_OUT_OF_MEMORY)
    assert old.history[-1].text == f"continued as {new.id}"
    assert f"goes on from  {failed}" in call("show", new.id).stdout
    shown = " ".join(call("show", failed).stdout.split())
    assert f"went on as {new.id}" in shown and "pi0q retry" not in shown


def test_retry_with_another_number_of_gpus_says_what_differs(
    call: Command, store: Store, driver: JobDriver, failed: str, tmp_path: Path
) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(json.dumps({**SPEC, "resources": {"gpus": 2}}))
    said = call("retry", failed, "--file", str(file))
    assert said.returncode == 0
    assert store.get(store.get(failed).continued).needs["gpus"] == 2
    if store.get(failed).checkpoint:
        assert "it trained on one GPU and goes on with 2 GPUs" in said.stderr


def test_said_twice_it_is_one_job_and_the_last_of_a_row_is_named(
    call: Command, store: Store, driver: JobDriver, failed: str
) -> None:
    first = json.loads(call("retry", failed, "--json").stdout)
    assert json.loads(call("retry", failed, "--json").stdout) == first
    store.cancel(first["id"], text="cancelled")
    again = call("retry", failed)
    assert again.returncode == 2 and f"pi0q retry {first['id']}" in again.stderr
    assert json.loads(call("retry", first["id"], "--json").stdout)["continues"] == first["id"]


def test_whoever_looks_at_it_is_told_how_it_goes_on(
    call: Command, store: Store, driver: JobDriver, failed: str
) -> None:
    assert f"`pi0q retry {failed} --file FILE` goes on from step 20000." in " ".join(
        call("show", failed).stdout.split()
    )
    assert f"`pi0q retry {failed} --file FILE` goes on from step 20000." in " ".join(call("why", failed).stdout.split())
    job = driver.submit("early")
    call("cancel", job)
    assert f"`pi0q retry {job}` goes on from step 0: nothing was saved." in " ".join(call("show", job).stdout.split())


def test_with_its_file_mended(call: Command, store: Store, failed: str, tmp_path: Path) -> None:
    file = tmp_path / "grab_box.yaml"
    file.write_text("train: {dataset: {repo_id: a/b}, policy: {type: act}, steps: 50000, batch_size: 4}")
    new = json.loads(call("retry", failed, "--file", str(file), "--json").stdout)
    assert store.get(new["id"]).spec["train"]["batch_size"] == 4
    file.write_text("train: {stepps: 1}")
    store.cancel(new["id"], text="cancelled")
    wrong = call("retry", new["id"], "--file", str(file))
    assert wrong.returncode == 2 and "did you mean" in wrong.stderr and store.get(new["id"]).continued == ""


def test_what_has_not_failed_is_left_alone(call: Command, store: Store, driver: JobDriver) -> None:
    job = driver.submit(spec=SPEC)
    said = call("retry", job)
    assert said.returncode == 2 and "has not ended (queued); nothing was changed" in said.stderr
    epoch = driver.run(job)
    store.move(job, transition.ended(store.get(job), epoch, Reason.FINISHED, "reached step 5"))
    said = call("retry", job)
    assert said.returncode == 2 and "has succeeded" in said.stderr
    assert call("retry", "nobody").returncode == 3


def pushing(store: Store, driver: JobDriver, detail: str) -> str:
    """A job that succeeded on box-a; what its push waits for."""
    job = driver.submit(spec=SPEC)
    epoch = driver.run(job)
    store.move(job, transition.ended(store.get(job), epoch, Reason.FINISHED, "reached step 5"))
    store.report_postrun(
        job,
        epoch,
        box="box-a",
        task=PostrunStatus(field="push", status={"state": "pending", "repo": "you/it", "detail": detail}),
    )
    return job


def test_what_is_left_of_one_that_succeeded_is_tried_now(call: Command, store: Store, driver: JobDriver) -> None:
    job = pushing(store, driver, "the Hub could not be reached")
    said = call("retry", job)
    assert said.stdout == (
        "push pending: the Hub could not be reached\n"
        "The data to send is on box-a: it is sent when a worker runs there again.\n"
    )
    assert store.get(job).history[-1].text.endswith("wants it tried now: push pending: the Hub could not be reached")
    store.announce_box("box-a", "1", {"status": "ready"})
    assert call("retry", job).stdout.endswith(f"It is retried now; `pi0q show {job}` shows the result.\n")
    told = json.loads(call("retry", job, "--json").stdout)
    assert told == {"id": job, "left": ["push pending: the Hub could not be reached"], "waits_for": []}
    assert "push pending: the Hub could not be reached" in call("ls").stdout
    assert f"`pi0q retry {job}` tries now what is left" in call("why", job).stdout
    shown = call("show", job).stdout
    assert "you/it  pending: the Hub could not be reached" in shown and f"`pi0q retry {job}` tries it now" in shown


def test_one_that_is_pushed_is_left_alone(call: Command, store: Store, driver: JobDriver) -> None:
    job = pushing(store, driver, "")
    told = {"state": "done", "repo": "you/it", "url": "https://huggingface.co/you/it", "detail": "step 5"}
    store.report_postrun(job, 1, box="box-a", task=PostrunStatus(field="push", status=told))
    assert call("retry", job).returncode == 2
    assert "https://huggingface.co/you/it  step 5" in call("show", job).stdout
    assert "push" not in call("ls").stdout
